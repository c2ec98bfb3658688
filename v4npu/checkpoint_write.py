"""Writes a V4 checkpoint in the official layout; it appears complete or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from v4npu.checkpoint_names import check_tensors, layout
from v4npu.model.config import Config
from v4npu.shards import ShardWriter, write_index

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
REPLACED = ("*.safetensors", "*.safetensors.index.json", CONFIG)  # what a new checkpoint takes the place of


def save(
    path: str | Path,
    config: Config,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    shard_bytes: int = 5_000_000_000,
    tokenizer: str | Path | None = None,
) -> None:
    """Writes a checkpoint in the official layout; it appears complete or not at all.

    Args:
        path: directory to make. A checkpoint already there is replaced in one step (its other files stay);
            any other non-empty directory is refused.
        config: written as config.json, with official keys.
        tensors: official names (layers.0.attn.wq_a.weight, ...scale) with tensors in a format that `check_tensors`
            takes: FP8 or FP4 with scales, or plain float ones without. Consumed one at a time.
        shard_bytes: a new shard begins before its tensors would exceed this.
        tokenizer: a tokenizer.json to copy in.

    Raises:
        ValueError: a name, shape or dtype does not fit the configuration, or one is missing.
    """
    path = Path(path).resolve()
    if shard_bytes < 1:
        raise ValueError(f"v4npu.checkpoint.save: shard_bytes must be positive, got {shard_bytes}")
    if path.exists() and not (path / CONFIG).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: must be a new or empty directory, or a checkpoint with {CONFIG}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if path.is_dir():
            replaced = shutil.ignore_patterns(*REPLACED)

            def ignored(folder: str, names: list[str]) -> set[str]:
                return replaced(folder, names) if folder == str(path) else set()  # inference/config.json stays

            shutil.copytree(path, made, ignore=ignored, dirs_exist_ok=True)
        _write_shards(made, config, tensors, shard_bytes)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, made / "tokenizer.json")
        (made / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        _swap(made, path, Path(scratch) / "replaced")


def _write_shards(
    path: Path, config: Config, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], shard_bytes: int
) -> None:
    written: list[ShardWriter] = []
    try:
        _stream(path, config, tensors, shard_bytes, written)
    finally:
        for shard in written:
            shard.close()
    if len(written) == 1:
        written[0].path.rename(path / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(written, 1):
        file_name = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        shard.path.rename(path / file_name)
        weight_map.update(dict.fromkeys(shard.entries, file_name))
    write_index(path / INDEX, weight_map, sum(shard.nbytes for shard in written))


def _stream(
    path: Path,
    config: Config,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    shard_bytes: int,
    written: list[ShardWriter],
) -> None:
    """Writes the shards, numbered parts for now: how many there will be is known at the end."""
    stored: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if name in stored:
            raise ValueError(f"v4npu.checkpoint.save: tensor {name!r} must be given once")
        stored[name] = (tensor.dtype, tuple(tensor.shape))
        if not written or (written[-1].entries and written[-1].nbytes + tensor.nbytes > shard_bytes):
            if written:
                written[-1].finish()
            written.append(ShardWriter(path / f"part-{len(written)}"))
        written[-1].add(name, tensor)
    check_tensors("v4npu.checkpoint.save", layout(config), stored)
    written[-1].finish()


def _swap(made: Path, path: Path, replaced: Path) -> None:
    """Puts `made` in the place of `path`; if that fails, the old directory is back where it was."""
    if not path.exists() or not any(path.iterdir()):
        made.rename(path)
        return
    path.rename(replaced)
    try:
        made.rename(path)
    except BaseException:
        replaced.rename(path)
        raise
