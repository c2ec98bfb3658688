"""Safetensors files from strangers: only what is described exactly is read, all else is one ValueError."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from v4npu.shards import DTYPES, Shard, ShardWriter, open_directory


def header_bytes(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    as_lists = (list(value) if isinstance(value, tuple) else value for value in (shape, offsets))
    return dict(zip(("dtype", "shape", "data_offsets"), (dtype, *as_lists), strict=True))


def sample(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 100, (size,), dtype=torch.uint8).view(dtype).view(shape)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    flat = [t.contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)


def test_reads_what_safetensors_writes_and_writes_what_it_reads(tmp_path: Path) -> None:
    tensors = {name: sample(dtype, 3, 5) for name, dtype in DTYPES.items()}
    tensors["empty"] = torch.empty(0, 4)
    tensors["scalar"] = torch.tensor(3.0)
    save_file(tensors, tmp_path / "theirs.safetensors")
    writer = ShardWriter(tmp_path / "ours.safetensors")
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.finish()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours.safetensors", "theirs.safetensors"]
    theirs, ours = Shard(tmp_path / "theirs.safetensors"), Shard(tmp_path / "ours.safetensors")
    reloaded = load_file(tmp_path / "ours.safetensors")
    for name, tensor in tensors.items():
        assert same(theirs.tensor(name), tensor) and same(ours.tensor(name), tensor), name
        assert same(reloaded[name], tensor), name


def test_memory_map_is_released_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(5000), "y": torch.zeros(5000)}, path)
    before = path.read_bytes()
    shard = Shard(path)
    for piece in shard.pieces("x", 0, 5000):
        piece.fill_(7)
    shard.tensor("y").fill_(7)
    shard.release("y")
    assert torch.equal(shard.tensor("y"), torch.zeros(5000))
    assert torch.equal(shard.tensor("x"), torch.ones(5000))
    assert path.read_bytes() == before


def test_pieces_are_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("v4npu.shards.PIECE", 1024)
    values = torch.arange(5000.0)
    save_file({"x": values, "empty": torch.empty(0)}, tmp_path / "a.safetensors")
    shard = Shard(tmp_path / "a.safetensors")
    for first, count in ((0, 5000), (0, 256), (1, 257), (4999, 1)):
        pieces = [piece.clone() for piece in shard.pieces("x", first, count)]
        assert torch.equal(torch.cat(pieces), values[first : first + count]) and max(map(len, pieces)) <= 256
    assert list(shard.pieces("empty", 0, 0)) == []


def test_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(5000), "y": torch.zeros(5000)}, path)
    shard = Shard(path)
    os.truncate(path, path.stat().st_size - 4000)
    assert torch.equal(shard.tensor("x"), torch.ones(5000))
    for read in (lambda: shard.tensor("y"), lambda: list(shard.pieces("y", 0, 5000))):
        with pytest.raises(ValueError, match=r"a\.safetensors: tensor 'y' must have .* shrunk to"):
            read()


def test_misaligned_tensor_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    text = header_bytes({"b": entry("I8", (1,), (0, 1)), "f": entry("F32", (1,), (1, 5))})
    path.write_bytes(text + b"\x01" + struct.pack("<f", 2.5))
    assert Shard(path).tensor("f").tolist() == [2.5]


HOSTILE = {
    "8-byte header length": b"\x01\x02",
    "header length must be at most .* got 1000000": struct.pack("<Q", 1_000_000) + b"{}",
    "header length must be at most .* got 18446744073709551615": b"\xff" * 8 + b"{}",
    "JSON: .*delimiter": header_bytes(b'{"a" 1}'),
    "valid JSON: .*recursion": header_bytes(b"[" * 100_000),
    "utf-8": header_bytes(b'{"\xff": 1}'),
    "must be a JSON object, got list": header_bytes([]),
    "'a' is given twice": header_bytes(b'{"a": {}, "a": {}}'),
    "__metadata__": header_bytes({"__metadata__": {"a": 1}}),
    "must have dtype, shape and data_offsets": header_bytes({"a": 5}),
    "must have dtype, shape and data_offsets, got {'dtype'": header_bytes({"a": {"dtype": "F32"}}),
    "dtype must be one of .* got 'PICKLE'": header_bytes({"a": entry("PICKLE")}),
    "dtype must be one of .* got \\['F32'\\]": header_bytes({"a": entry(["F32"])}),
    "shape must be .* got \\[-2\\]": header_bytes({"a": entry(shape=(-2,))}),
    "shape must be .* got \\[2.0\\]": header_bytes({"a": entry(shape=(2.0,))}),
    "shape must be .* got \\[True\\]": header_bytes({"a": entry(shape=(True,))}),
    "shape must be .* got 2": header_bytes({"a": entry(shape=2)}),
    "shape must be at most 8": header_bytes({"a": entry(shape=(1,) * 9)}),
    "fewer than 2\\*\\*59": header_bytes({"a": entry(shape=(2**32, 2**32, 2**2), offsets=(0, 0))}),
    "fewer than 2\\*\\*59 ": header_bytes({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}),
    "takes 4294967296 bytes": header_bytes({"a": entry(shape=(2**30,))}) + bytes(8),
    "takes 8 bytes.* hold 4": header_bytes({"a": entry(offsets=(0, 4))}) + bytes(4),
    "data_offsets must be": header_bytes({"a": entry(offsets=(8, 0))}),
    "data_offsets must be two": header_bytes({"a": entry(offsets=(0, 4, 8))}),
    "data_offsets must be .* got \\[-8, 0\\]": header_bytes({"a": entry(offsets=(-8, 0))}),
    "ends at byte .* truncated": header_bytes({"a": entry()}) + bytes(7),
    "file must end": header_bytes({"a": entry()}) + bytes(9),
    "'a' must start at": header_bytes({"a": entry(offsets=(8, 16))}) + bytes(16),
    "'b' must start at": header_bytes({"a": entry(), "b": entry(offsets=(4, 12))}) + bytes(12),
    "at most 1024 characters": header_bytes({"a" * 2000: entry()}) + bytes(8),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_header_is_refused(tmp_path: Path, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE[message])
    with pytest.raises(ValueError, match=message.strip()) as error:
        Shard(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_oversized_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000))
        file.truncate(300_000_000)  # sparse
    with pytest.raises(ValueError, match="header length must be at most 100000000"):
        Shard(path)


def test_too_wide_a_dtype_is_not_written(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a")
    with pytest.raises(ValueError, match="'x' must be one of"):
        writer.add("x", torch.zeros(2, dtype=torch.complex64))
    writer.close()


INDEXES = {
    "valid JSON": b"{",
    "weight_map must be": b"{}",
    "weight_map must be an object": b'{"weight_map": ["a"]}',
    "beside the index, got '../evil.safetensors'": b'{"weight_map": {"a": "../evil.safetensors"}}',
    "beside the index, got '/etc/x.safetensors'": b'{"weight_map": {"a": "/etc/x.safetensors"}}',
    "beside the index, got 'weights.bin'": b'{"weight_map": {"a": "weights.bin"}}',
    "beside the index, got 7": b'{"weight_map": {"a": 7}}',
    "beside the index, got 'aaa": b'{"weight_map": {"a": "' + b"a" * 500 + b'.safetensors"}}',
    "'a' is given twice": b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
    "tensor 'b' must be here according to": b'{"weight_map": {"b": "real.safetensors"}}',
}


@pytest.mark.parametrize("message", INDEXES)
def test_hostile_index_is_refused(tmp_path: Path, message: str) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "real.safetensors")
    (tmp_path / "model.safetensors.index.json").write_bytes(INDEXES[message])
    with pytest.raises(ValueError, match=message):
        list(open_directory(tmp_path))


def test_an_index_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    with pytest.raises(FileNotFoundError, match="expected an index of shards"):
        list(open_directory(tmp_path))


def test_which_files_of_a_directory_count(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.safetensors"):
        list(open_directory(tmp_path))
    index = tmp_path / "model.safetensors.index.json"
    for name in ("a", "b", "model"):
        save_file({name: torch.ones(2)}, tmp_path / f"{name}.safetensors")
    assert [names for _, names in open_directory(tmp_path)] == [["model"]]
    index.write_text(json.dumps({"weight_map": {"b": "b.safetensors"}}))
    with pytest.raises(ValueError, match="not both"):
        list(open_directory(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    assert [names for _, names in open_directory(tmp_path)] == [["b"]]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors: no such file"):
        list(open_directory(tmp_path))
    index.unlink()
    assert [names for _, names in open_directory(tmp_path)] == [["a"]]
    for name in "xy":
        (tmp_path / f"{name}.safetensors.index.json").touch()
    with pytest.raises(ValueError, match=r"must hold one index, got x\.safetensors.*, y\.safetensors"):
        list(open_directory(tmp_path))


def damaged() -> st.SearchStrategy[bytes]:
    """A sound file of three tensors with a few bytes changed, inserted or cut off; or plain noise."""
    floats, codes = entry("F32", (2, 3), (0, 24)), entry("I8", (5,), (24, 29))
    sound = header_bytes({"a": floats, "b": codes, "c": entry("F8_E8M0", (0,), (29, 29))}) + bytes(29)
    byte = st.integers(0, len(sound) - 1)
    changes = st.lists(st.tuples(byte, st.binary(max_size=3)), min_size=1, max_size=4)

    def damage(edits: list[tuple[int, bytes]], cut: int) -> bytes:
        out = bytearray(sound)
        for position, data in edits:
            out[position : position + len(data)] = data
        return bytes(out[: cut + 1])

    whole = st.just(len(sound))
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(list(DTYPES)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
    fields = st.fixed_dictionaries({"dtype": values, "shape": values, "data_offsets": values})
    headers = st.dictionaries(st.text(max_size=4), fields | values, max_size=3)
    built = st.builds(lambda header, data: header_bytes(header) + data, headers, st.binary(max_size=16))
    return st.builds(damage, changes, whole | byte) | st.binary(max_size=64) | built


@settings(max_examples=400, deadline=None)
@given(data=damaged())
def test_only_value_errors_escape(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(data)
    try:
        shard = Shard(path)
    except ValueError:
        return
    for name, found in shard.entries.items():  # what is accepted is readable to its last byte
        assert shard.tensor(name).shape == found.shape
        assert found.end <= len(data)
