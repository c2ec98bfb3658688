"""Reads and writes V4 checkpoints: a directory of config.json and *.safetensors in the official layout.

A checkpoint is judged as a whole before a tensor is touched: every header, then every name, shape and dtype
against the configuration. `save` writes one whole or not at all; `random` makes one of any shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from v4npu.checkpoint_names import Part, check_tensors, layout, official_name, scale_name, split_fused
from v4npu.checkpoint_random import random
from v4npu.checkpoint_write import CONFIG, save
from v4npu.model.config import Config
from v4npu.reference.formats import float_to_e8m0
from v4npu.shards import Shard, open_directory

__all__ = ["Checkpoint", "random", "save"]


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
        check_tensors(str(self.path), specs, stored)
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
        return self._as_served(name, data)

    def copy(self, name: str, out: Tensor) -> None:
        """Copies tensor(name) into `out`, contiguous, of any device and float dtype, a piece of it at a time.

        Raises:
            ValueError: `out` has another shape, the tensor holds NaN or a bad scale, or the file has shrunk; the
                message names the tensor.
        """
        source, first, at = self._found[name], 0, 0
        if source.part is not None:
            _, rows, columns = source.shard.entries[source.stored].shape
            first = (source.part.expert * rows + source.part.start) * columns
        if out.shape != source.shape:
            raise ValueError(f"out must be {list(source.shape)} for tensor {name!r}, got {list(out.shape)}")
        flat = out.view(-1)
        for piece in source.shard.pieces(source.stored, first, out.numel()):
            served = self._as_served(name, piece)
            if _holds_nan(served):
                raise ValueError(f"{source.shard.path}: tensor {source.stored!r} must not hold NaN")
            flat[at : at + len(served)].copy_(served)
            at += len(served)

    def _as_served(self, name: str, data: Tensor) -> Tensor:
        served = _served(name, data.dtype)
        if served == data.dtype:
            return data
        if served.itemsize == data.dtype.itemsize:  # raw bytes: U8 for I8 or F8_E8M0
            return data.view(served)
        if served == torch.int64:
            return data.to(served)
        source = self._found[name]
        return _exact_e8m0(f"{source.shard.path}: tensor {source.stored!r}", data)


def _served(name: str, dtype: torch.dtype) -> torch.dtype:
    if name.endswith(".scale"):
        return torch.float8_e8m0fnu
    return {torch.uint8: torch.int8, torch.int32: torch.int64}.get(dtype, dtype)


def _holds_nan(data: Tensor) -> bool:
    """Whether a flat tensor as served holds NaN; one pass, much faster than isnan."""
    if data.dtype == torch.float8_e8m0fnu:
        return bool(data.view(torch.uint8).max() == 255)
    if data.dtype == torch.float8_e4m3fn:
        return bool((data.view(torch.uint8) & 127).max() == 127)
    if not data.is_floating_point():
        return False
    return not bool(data.sum().isfinite()) and bool(data.isnan().any())  # a sum may overflow without any NaN


def _exact_e8m0(where: str, scale: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(scale.float())
    if not bool(((mantissa == 0.5) & (exponent >= -126)).all()):  # mantissa * 2^exponent; at 2^128 floats end
        raise ValueError(f"{where}: scales must be powers of two from 2^-127 to 2^127")
    return float_to_e8m0(exponent - 1)
