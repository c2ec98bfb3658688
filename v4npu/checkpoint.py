"""Reads and writes V4 checkpoints: a directory of config.json and *.safetensors in the official layout.

A checkpoint is judged as a whole before a tensor is touched: every header, then every name, shape and dtype
against the configuration. What is written appears at once or not at all. See v4_spec.md section 5.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from v4npu.checkpoint_names import (
    SCALES,
    Part,
    Spec,
    expected,
    layout,
    official_name,
    scale_name,
    split_fused,
    stored_shapes,
)
from v4npu.checkpoint_random import random_tensors
from v4npu.model.config import Config
from v4npu.reference.formats import float_to_e8m0
from v4npu.shards import DTYPE_NAMES, Shard, ShardWriter, open_directory, write_index

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
REPLACED = ("*.safetensors", "*.safetensors.index.json", CONFIG)  # what a new checkpoint takes the place of


class Source(NamedTuple):
    """Where a tensor is stored; `part` picks one expert out of a fused tensor."""

    shard: Shard
    stored: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    part: Part | None = None


class Checkpoint:
    """A checkpoint directory; tensors are served lazily from memory maps under their official names.

    Args:
        path: directory with config.json and one or more safetensors files (with their index, if any). Names
            may be official, "model."-prefixed, or those of transformers, fused experts included.

    Raises:
        FileNotFoundError: config.json or a shard is missing.
        ValueError: anything in it is malformed; the message names file, tensor and what was expected.
        NotImplementedError: a valid configuration that this build does not run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: no such directory; expected a checkpoint with {CONFIG}")
        self.config = Config.from_file(self.path / CONFIG)
        found = self._sources()
        if not any(name.startswith("mtp.") for name in found):
            self.config = self.config.without_mtp()
        specs = layout(self.config)
        stored = {name: (source.dtype, source.shape) for name, source in found.items()}
        _check(str(self.path), specs, stored)
        order = [both for name in specs for both in (name, scale_name(name)) if both in found]
        self._found = {name: found[name] for name in order}

    def _sources(self) -> dict[str, Source]:
        found: dict[str, Source] = {}
        for shard, names in open_directory(self.path):
            for stored in names:
                name, entry = official_name(stored), shard.entries[stored]
                if name is None:
                    continue
                try:
                    parts = split_fused(name, entry.shape, self.config)
                except ValueError as error:
                    raise ValueError(f"{shard.path}: {error}") from None
                if parts is None:
                    sources = {name: Source(shard, stored, entry.dtype, entry.shape)}
                else:
                    columns = entry.shape[2]
                    sources = {
                        name: Source(shard, stored, entry.dtype, (part.stop - part.start, columns), part)
                        for name, part in parts
                    }
                for name, source in sources.items():
                    if name in found:
                        other = found[name]
                        raise ValueError(
                            f"{shard.path}: tensor {name!r} must be stored once, is here as {stored!r}"
                            f" and in {other.shard.path.name} as {other.stored!r}"
                        )
                    found[name] = source
        return found

    def names(self) -> list[str]:
        """Official names in layout order, scales behind their weights."""
        return list(self._found)

    def spec(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of tensor(name), without reading it."""
        source = self._found[name]
        return _served(name, source.dtype), source.shape

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as served."""
        specs = (self.spec(name) for name in self._found)
        return sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in specs)

    def tensor(self, name: str) -> Tensor:
        """A view of the memory map (a copy, where stored in another dtype); ValueError for a bad scale."""
        source = self._found[name]
        data = source.shard.tensor(source.stored)
        if source.part is not None:
            data = data[source.part.expert, source.part.start : source.part.stop]
        served = _served(name, data.dtype)
        if served == data.dtype:
            return data
        if served.itemsize == data.dtype.itemsize:  # raw bytes: U8 for I8 or F8_E8M0
            return data.view(served)
        if served == torch.int64:
            return data.to(served)
        return _exact_e8m0(f"{source.shard.path}: tensor {source.stored!r}", data)

    def release(self, name: str) -> None:
        """Hands the pages read for `name` back to the system."""
        source = self._found[name]
        source.shard.release(source.stored)


def _served(name: str, dtype: torch.dtype) -> torch.dtype:
    if name.endswith(".scale"):
        return torch.float8_e8m0fnu
    return {torch.uint8: torch.int8, torch.int32: torch.int64}.get(dtype, dtype)


def _exact_e8m0(where: str, scale: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(scale.float())
    if not bool((mantissa == 0.5).all()):
        raise ValueError(f"{where}: scales must be powers of two from 2^-127 to 2^127")
    return float_to_e8m0(exponent - 1)


def _check(
    where: str, specs: dict[str, Spec], stored: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> None:
    """One ValueError for everything that is missing, unexpected or of a wrong shape or dtype."""
    problems: list[str] = []
    wanted: set[str] = set()
    formats: dict[str, tuple[str, torch.dtype]] = {}  # the experts of a layer are stacked: they share a dtype
    for name, spec in specs.items():
        wanted.add(name)
        if name not in stored:
            problems.append(f"{name} is missing, expected {expected(spec)}")
            continue
        dtype, shape = stored[name]
        shapes = stored_shapes(spec, dtype)
        if shapes is None or shapes[0] != shape:
            problems.append(f"{name} must be {expected(spec)}, got {_describe(dtype, shape)}")
            continue
        if spec.kind == "expert":
            group = name.rpartition(".experts.")[0] + name.rpartition(".")[0][-3:]
            first = formats.setdefault(group, (name, dtype))
            if first[1] != dtype:
                problems.append(
                    f"{name} must be {DTYPE_NAMES[first[1]]} like {first[0]}, got {DTYPE_NAMES[dtype]}"
                )
        if shapes[1] is not None:
            wanted.add(scale_name(name))
            given = stored.get(scale_name(name))
            if given is None or given[1] != shapes[1] or given[0] not in SCALES:
                got = "nothing" if given is None else _describe(*given)
                problems.append(f"{scale_name(name)} must be F8_E8M0 {list(shapes[1])}, got {got}")
    problems += [f"{name} is unexpected, {_describe(*stored[name])}" for name in stored if name not in wanted]
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ValueError(f"{where}: tensor " + "; tensor ".join(problems[:6]) + more)


def _describe(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{DTYPE_NAMES.get(dtype, dtype)} {list(shape)}"


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
        tensors: official names (layers.0.attn.wq_a.weight, ...scale) with tensors of the dtypes of v4_spec.md
            5.1, or plain float ones without a scale. Consumed one at a time.
        shard_bytes: a new shard begins before its tensors would exceed this.
        tokenizer: a tokenizer.json to copy in.

    Raises:
        ValueError: a name, shape or dtype does not fit the configuration, or one is missing.
    """
    path = Path(path).absolute()
    if shard_bytes < 1:
        raise ValueError(f"v4npu.checkpoint.save: shard_bytes must be positive, got {shard_bytes}")
    if path.exists() and not (path / CONFIG).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: must be a new or empty directory, or a checkpoint with {CONFIG}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if path.is_dir():
            shutil.copytree(path, made, ignore=shutil.ignore_patterns(*REPLACED), dirs_exist_ok=True)
        _write_shards(made, config, tensors, shard_bytes)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, made / "tokenizer.json")
        (made / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        _swap(made, path, Path(scratch) / "replaced")


def _write_shards(
    path: Path, config: Config, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], shard_bytes: int
) -> None:
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    written: list[ShardWriter] = []
    stored: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, tensor in pairs:
        if name in stored:
            raise ValueError(f"v4npu.checkpoint.save: tensor {name!r} must be given once")
        stored[name] = (tensor.dtype, tuple(tensor.shape))
        if not written or written[-1].entries and written[-1].nbytes + tensor.nbytes > shard_bytes:
            if written:
                written[-1].finish()
            written.append(ShardWriter(path / f"part-{len(written)}"))
        written[-1].add(name, tensor)
    _check("v4npu.checkpoint.save", layout(config), stored)
    written[-1].finish()
    if len(written) == 1:
        written[0].path.rename(path / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(written, 1):
        file_name = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        shard.path.rename(path / file_name)
        weight_map.update(dict.fromkeys(shard.entries, file_name))
    write_index(path / INDEX, weight_map, sum(shard.nbytes for shard in written))


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


def random(
    path: str | Path,
    config: Config,
    seed: int = 0,
    expert_dtype: str = "fp4",
    attention_dtype: str = "fp8",
    mtp: bool = True,
) -> None:
    """Writes a random checkpoint of any shape, tensor by tensor, with weights of plausible size.

    Args:
        expert_dtype: "fp4", "fp8", "bf16" or "fp32".
        attention_dtype: "fp8", "bf16" or "fp32", for every linear but the routed experts. With "fp32" the
            norms, embeddings and the like are float32 too.
        mtp: whether to write the draft layers of `config`.
    """
    config = config if mtp else config.without_mtp()
    config = replace(config, expert_dtype=expert_dtype, quantized=attention_dtype == "fp8")
    save(path, config, random_tensors(config, seed, expert_dtype, attention_dtype))
