"""Runs `.asc` kernels on the emulated Ascend chip, by name."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from v4npu.emulated_kernels import Source, all_sources, library
from v4npu.kernel_cache import cache_folder

_SCALARS = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float}


class KernelFault(RuntimeError):
    """What the emulator found wrong with a kernel."""


@dataclass(frozen=True)
class In:
    """A tensor that the kernel may read."""

    tensor: Tensor | None


@dataclass(frozen=True)
class Out:
    """A tensor that the kernel may write, and read only where it has written."""

    tensor: Tensor


@dataclass(frozen=True)
class InOut:
    """A tensor that the kernel may read and write."""

    tensor: Tensor


class _Region(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("access", ctypes.c_int32),
        ("name", ctypes.c_char_p),
    )


class _Report(ctypes.Structure):
    _fields_ = (
        ("ub_bytes", ctypes.c_int64),
        ("instructions", ctypes.c_int64),
        ("waits", ctypes.c_char_p),
        ("trace", ctypes.c_char_p),
        ("modelled_us", ctypes.c_double),
        ("busy_us", ctypes.c_double * 7),
    )


@dataclass(frozen=True)
class Report:
    """What a launch did; times are modelled lower bounds (backends/ascend/emulation/time_model.h), not measurements."""

    ub_bytes: int
    instructions: int
    waits: tuple[str, ...]  # "file:line" of every wait and barrier
    modelled_us: float | None  # None where the SKU's memory rate has no source
    modelled_busy_us: dict[str, float]  # by pipe, all blocks together
    trace: str  # Chrome trace of modelled times, if asked for


class Kernels:
    """The kernels of some sources, compiled for one architecture."""

    def __init__(self, sources: Sequence[Source], arch: int, cache: Path) -> None:
        self.arch = arch
        self.entries = {name: args for source in sources for name, args in source.entries().items()}
        self.path = library(sources, arch, cache)
        self._library = ctypes.CDLL(str(self.path))

    def launch(
        self,
        name: str,
        sku: str,
        num_blocks: int,
        *arguments: In | Out | InOut | int | float,
        ignored_wait: str = "",
        trace: bool = False,
    ) -> Report:
        """Runs a kernel to its end; the wait or barrier at `ignored_wait` ("file:line") then orders nothing.

        Raises:
            KernelFault: The emulator found something wrong; the message is its sentence.
        """
        signature = self.entries[name]
        if len(signature) != len(arguments):
            raise TypeError(f"{name} takes {len(signature)} arguments, got {len(arguments)}")
        regions, values = [], []
        for (kind, label), argument in zip(signature, arguments, strict=True):
            if isinstance(argument, In | Out | InOut):
                tensor = argument.tensor
                if tensor is not None:
                    access = (In, Out, InOut).index(type(argument))
                    reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
                    size = reach * tensor.element_size() if tensor.numel() else 0
                    regions.append(_Region(tensor.data_ptr(), size, access, label.encode()))
                values.append(ctypes.c_void_p(None if tensor is None else tensor.data_ptr()))
            else:
                values.append(_SCALARS[kind](argument))  # type: ignore[arg-type]
        run = self._library[f"emulate_{name}"]
        run.restype = ctypes.c_char_p
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values))
        report = _Report()
        message = run(
            sku.encode(),
            ctypes.c_int64(num_blocks),
            (_Region * max(len(regions), 1))(*regions),
            ctypes.c_int64(len(regions)),
            pointers,
            ctypes.c_int64(len(values)),
            ignored_wait.encode(),
            ctypes.c_bool(trace),
            ctypes.byref(report),
        )
        if message is not None:
            raise KernelFault(message.decode())
        busy = dict(zip(("S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"), report.busy_us, strict=True))
        return Report(
            report.ub_bytes,
            report.instructions,
            tuple(report.waits.decode().split()),
            report.modelled_us or None,
            busy,
            report.trace.decode(),
        )


def all_kernels(arch: int) -> Kernels:
    """The kernels of all operators, in the library that `v4npu emulate` launches."""
    return Kernels(all_sources(arch), arch, cache_folder(os.environ))
