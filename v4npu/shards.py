"""One safetensors file: strict reading through a memory map, and writing tensor by tensor.

The header comes from outside, so everything in it is checked against the file before any tensor is touched:
its length, its JSON, every dtype, shape and offset, and that the tensors tile the data section exactly.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # the limit of the safetensors format
MAX_INDEX = 1 << 28
MAX_RANK = 8
MAX_NAME = 1024
PIECE = 4 << 20  # bytes mapped at once while a tensor is copied


@cache
def large_page() -> int:
    """Bytes of this system's large pages: 2 MiB with pages of 4 KiB, 512 MiB with those of 64 KiB."""
    try:
        return int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 2 << 20


class Entry(NamedTuple):
    """Where a tensor lies: bytes [start, end) of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Shard:
    """A validated, memory-mapped safetensors file; `entries` describes its tensors, `metadata` is its free text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a safetensors shard")
        with path.open("rb") as file:
            self.entries, self.metadata = _read_header(path, file)
            # Copy-on-write: torch wants a writable buffer, the file stays as it is.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, name: str) -> Tensor:
        """The tensor as a view of the memory map (a copy where the file is not aligned for its dtype)."""
        dtype, shape, start, end = self.entries[name]
        return self._view(name, dtype, start, end).view(shape)

    def pieces(self, name: str, first: int, count: int) -> Iterator[Tensor]:
        """Elements first .. first + count of a tensor, in flat views whose pages go back to the system after use."""
        dtype, _, base, _ = self.entries[name]
        step = PIECE // dtype.itemsize
        for at in range(first, first + count, step):
            start, end = (base + i * dtype.itemsize for i in (at, min(at + step, first + count)))
            yield self._view(name, dtype, start, end)
            self._release(start, end)

    def release(self, name: str) -> None:
        """Gives the pages of a tensor back to the system, when no view of it is read any more."""
        self._release(*self.entries[name][2:])

    def _view(self, name: str, dtype: torch.dtype, start: int, end: int) -> Tensor:
        if start == end:
            return torch.empty(0, dtype=dtype, device="cpu")
        # Reading a mapped page that the file no longer has kills the process, so look first.
        if (size := self._map.size()) < end:
            raise ValueError(
                f"{self.path}: tensor {name!r} must have bytes {start} to {end}, but the file has shrunk to {size}"
            )
        data = torch.frombuffer(self._map, dtype=torch.uint8, count=end - start, offset=start)
        return (data.clone() if start % dtype.itemsize else data).view(dtype)

    def _release(self, start: int, end: int) -> None:
        """Gives mapped pages back to the system; reading them again maps them anew.

        A page fault maps neighbours too, up to a large page, so the edges are released that far outwards.
        """
        start = max(0, start - large_page()) // mmap.PAGESIZE * mmap.PAGESIZE
        end = min(len(self._map), end + large_page())
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)


def parse_json(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object without repeated keys; ValueError names the file."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in pairs:
            if key in out:
                raise ValueError(f"{_short(key)} is given twice")
            out[key] = value
        return out

    try:
        value = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        raise ValueError(f"{path}: header or index must be valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: header or index must be a JSON object, got {type(value).__name__}")
    return value


def _read_header(path: Path, file: IO[bytes]) -> tuple[dict[str, Entry], dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise ValueError(f"{path}: file must start with an 8-byte header length, got {size} bytes")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER or length > size - 8:
        raise ValueError(
            f"{path}: header length must be at most {min(MAX_HEADER, size - 8)} in a file of {size} bytes,"
            f" got {length}; truncated or not a safetensors file"
        )
    header = parse_json(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: __metadata__ must be an object of strings")
    entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    _check_tiling(path, entries, 8 + length, size)
    return entries, metadata


def _entry(path: Path, name: str, value: Any, base: int) -> Entry:
    where = f"{path}: tensor {name!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} must have dtype, shape and data_offsets, got {_short(value)}")
    if len(name) > MAX_NAME:
        raise ValueError(f"{where[:200]}...: a name must have at most {MAX_NAME} characters, got {len(name)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where}: dtype must be one of {', '.join(DTYPES)}, got {_short(dtype)}")
    if not _naturals(shape) or len(shape) > MAX_RANK:
        raise ValueError(f"{where}: shape must be at most {MAX_RANK} integers from 0, got {_short(shape)}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{where}: data_offsets must be two ascending integers from 0, got {_short(offsets)}")
    if math.prod(max(1, n) for n in shape) >= 2**59:  # exact: Python integers do not wrap; torch's do
        raise ValueError(f"{where}: shape must be of fewer than 2**59 elements, got {shape}")
    expected, held = math.prod(shape) * DTYPES[dtype].itemsize, offsets[1] - offsets[0]
    if held != expected:
        raise ValueError(f"{where}: {dtype} {shape} takes {expected} bytes, data_offsets {offsets} hold {held}")
    return Entry(DTYPES[dtype], tuple(shape), base + offsets[0], base + offsets[1])


def _check_tiling(path: Path, entries: dict[str, Entry], position: int, size: int) -> None:
    """Tensors follow each other without gap or overlap and end where the file ends."""
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.start != position:
            raise ValueError(f"{path}: tensor {name!r} must start at byte {position} of the file, got {entry.start}")
        if entry.end > size:
            raise ValueError(
                f"{path}: tensor {name!r} ends at byte {entry.end}, but the file has {size} bytes; truncated"
            )
        position = entry.end
    if position != size:
        raise ValueError(f"{path}: file must end after its last tensor at byte {position}, got {size} bytes")


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class ShardWriter:
    """Writes one safetensors file from a stream of tensors, holding one of them at a time.

    The header must come first but is known last, so the data waits in one part file per element size; putting
    wide elements first keeps every tensor aligned without gaps.
    """

    WIDTHS = (8, 4, 2, 1)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Tensor] = {}  # on the meta device: dtype and shape only
        self.nbytes = 0
        self._parts = {width: path.with_name(f"{path.name}.{width}") for width in self.WIDTHS}
        self._files = {width: part.open("wb") for width, part in self._parts.items()}

    def add(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"tensor {name!r} must be one of {', '.join(DTYPES)}, got {tensor.dtype}")
        data = tensor.detach().cpu().contiguous()
        self.entries[name] = data.to("meta")
        self.nbytes += data.nbytes
        if data.nbytes:
            self._files[data.dtype.itemsize].write((ctypes.c_char * data.nbytes).from_address(data.data_ptr()))

    def finish(self, metadata: dict[str, str] | None = None) -> None:
        header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
        position = 0
        for name, data in sorted(self.entries.items(), key=lambda item: -item[1].dtype.itemsize):
            header[name] = {
                "dtype": DTYPE_NAMES[data.dtype],
                "shape": list(data.shape),
                "data_offsets": [position, position + data.nbytes],
            }
            position += data.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.close()
        with self.path.open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for width in self.WIDTHS:
                with self._parts[width].open("rb") as part:
                    shutil.copyfileobj(part, out, 1 << 20)
                self._parts[width].unlink()
            out.flush()
            os.fsync(out.fileno())

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def read_index(path: Path) -> dict[str, str]:
    """The weight_map of a *.safetensors.index.json: tensor name to shard, a file name beside the index."""
    if not path.is_file():  # a pipe, say, which nobody may ever write to
        raise FileNotFoundError(f"{path}: no such file; expected an index of shards")
    if path.stat().st_size > MAX_INDEX:
        raise ValueError(f"{path}: must be at most {MAX_INDEX} bytes, got {path.stat().st_size}")
    weight_map = parse_json(path, path.read_bytes()).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path}: weight_map must be an object of tensor names and shards, got {_short(weight_map)}")
    for name, shard in weight_map.items():
        plain = isinstance(shard, str) and len(shard) < 256 and not set(shard) & set("/\\:\0")
        if not plain or not shard.endswith(".safetensors"):
            raise ValueError(
                f"{path}: tensor {name!r} must be in a *.safetensors beside the index, got {_short(shard)}"
            )
    return weight_map


def write_index(path: Path, weight_map: dict[str, str], nbytes: int) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": nbytes}, "weight_map": weight_map}, indent=1) + "\n")


def open_directory(path: Path) -> Iterable[tuple[Shard, list[str]]]:
    """Every shard of a checkpoint directory with the tensors to take from it.

    The index decides which files count; without one model.safetensors does, or else all *.safetensors.
    """
    index = sorted(path.glob("*.safetensors.index.json"))
    whole = path / "model.safetensors"
    if len(index) > 1:
        raise ValueError(f"{path}: must hold one index, got {', '.join(file.name for file in index)}")
    if not index:
        files = [whole] if whole.is_file() else sorted(path.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{path}: holds no *.safetensors file")
        for file in files:
            shard = Shard(file)
            yield shard, list(shard.entries)
        return
    by_shard: dict[str, list[str]] = {}
    for name, file_name in read_index(index[0]).items():
        by_shard.setdefault(file_name, []).append(name)
    if whole.is_file() and whole.name not in by_shard:
        raise ValueError(f"{path}: must hold {whole.name} or {index[0].name}, which does not name it, not both")
    for file_name, names in sorted(by_shard.items()):
        shard = Shard(path / file_name)
        for name in names:
            if name not in shard.entries:
                raise ValueError(f"{shard.path}: tensor {name!r} must be here according to {index[0].name}, is absent")
        yield shard, names
