"""Writing checkpoints: sharded as asked, and whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from v4npu import checkpoint
from v4npu.checkpoint import Checkpoint
from v4npu.checkpoint_random import random_tensors
from v4npu.model.config import Config

CONFIG = Config(
    vocab_size=40, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, q_lora_rank=32, o_groups=2,
    n_routed_experts=4, moe_intermediate_size=32, compress_ratios=(4, 16, 0), head_dim=32,
    qk_rope_head_dim=16, o_lora_rank=16, index_head_dim=16, num_experts_per_tok=2, num_hash_layers=1,
)  # fmt: skip


def assert_holds(path: Path, expected: dict[str, torch.Tensor]) -> None:
    opened = Checkpoint(path)
    assert set(opened.names()) == set(expected)
    for name, tensor in expected.items():
        read = opened.tensor(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape), name
        flat = [t.contiguous().view(-1).view(torch.uint8) for t in (read, tensor)]
        assert torch.equal(*flat), name


def test_what_a_caller_changes_in_a_configs_dictionary_is_in_no_other() -> None:
    changed = CONFIG.to_dict()
    changed["quantization_config"]["expert_dtype"] = "fp4"
    changed["quantization_config"]["weight_block_size"][0] = 64
    assert CONFIG.to_dict()["quantization_config"] != changed["quantization_config"]
    assert Config.from_dict(CONFIG.to_dict()) == CONFIG


def test_sharding(tmp_path: Path) -> None:
    tensors = dict(random_tensors(CONFIG, 1))
    checkpoint.save(tmp_path / "a", CONFIG, tensors, shard_bytes=50_000)
    files = sorted(tmp_path.glob("a/*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "a/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 50_000 for file in files)
    assert_holds(tmp_path / "a", tensors)
    checkpoint.save(tmp_path / "a", CONFIG, tensors)  # one file takes the place of many and their index
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a"]


def test_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    checkpoint.random(path, CONFIG, seed=0)
    (path / "tokenizer.json").write_text("{}")
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def full_disk() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(random_tensors(CONFIG, 1))[:50]
        raise OSError("disk full")

    def unchanged() -> bool:
        return {f.name: f.read_bytes() for f in path.iterdir()} == before and list(tmp_path.iterdir()) == [path]

    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, CONFIG, full_disk(), shard_bytes=10_000)
    assert unchanged()
    with pytest.raises(ValueError, match="is missing"):
        checkpoint.save(path, CONFIG, list(random_tensors(CONFIG, 1))[:-1])
    assert unchanged()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "made":
            raise OSError("no rename")
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no rename"):
        patch.setattr(Path, "rename", failing)
        checkpoint.random(path, CONFIG, seed=1)
    assert unchanged()
    checkpoint.random(path, CONFIG, seed=1)
    assert_holds(path, dict(random_tensors(CONFIG, 1)))
    assert (path / "tokenizer.json").read_text() == "{}"


def test_a_new_checkpoint_takes_the_place_of_no_file_in_a_folder(tmp_path: Path) -> None:
    checkpoint.random(tmp_path / "a", CONFIG)
    others = [tmp_path / "a/inference" / name for name in ("config.json", "model.safetensors", "model.py")]
    others[0].parent.mkdir()
    for other in others:
        other.write_text(other.name)
    checkpoint.random(tmp_path / "a", CONFIG, seed=1)
    assert_holds(tmp_path / "a", dict(random_tensors(CONFIG, 1)))
    assert [other.read_text() for other in others] == [other.name for other in others]


def test_save_refuses_what_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty directory, or a checkpoint"):
        checkpoint.random(tmp_path, CONFIG)
    tensors = dict(random_tensors(CONFIG, 0))
    with pytest.raises(ValueError, match="must be given once"):
        checkpoint.save(tmp_path / "a", CONFIG, [*tensors.items(), ("norm.weight", tensors["norm.weight"])])
    with pytest.raises(ValueError, match=r"'norm\.weight' must be one of"):
        checkpoint.save(tmp_path / "a", CONFIG, {**tensors, "norm.weight": torch.ones(64, dtype=torch.complex64)})
    with pytest.raises(ValueError, match="shard_bytes must be positive"):
        checkpoint.save(tmp_path / "a", CONFIG, tensors, shard_bytes=0)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
