"""Runs `.asc` kernels on the emulated Ascend chip: compiles them with the host's C++ compiler and calls them by name.

Kernels and emulator are C++ text under backends/ascend, which a wheel carries in v4npu/native.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from v4npu.kernel_cache import ASCEND, ROOT, built, cache_folder, kernel_ops, kernel_path

INCLUDES = (ASCEND / "emulation", ASCEND / "ops", ROOT / "csrc/include")
FLAGS = ("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread", "-ffp-contract=off")
_ENTRY = re.compile(r'extern "C" __global__ __aicore__ void (\w+)\(([^)]*)\) \{\s*KERNEL_TASK_TYPE_DEFAULT\((\w+)\);')
_PARAMETERS = re.compile(r"#define (\w+_PARAMETERS)\s((?:.*\\\n)*.*)")
_SCALARS = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float}


def skus() -> dict[str, int]:
    """The SKUs that can be emulated and their architecture."""
    table = (ASCEND / "emulation/skus.h").read_text()
    return {name: int(arch) for name, arch in re.findall(r'\{"(\w+)", (\d+), ', table)}


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


@dataclass(frozen=True)
class Source:
    """Text of a kernel file; a suffix sets several versions of one file apart in the same library."""

    name: str
    text: str
    suffix: str = ""

    @staticmethod
    def of(op: str, arch: int | None = None) -> Source:
        """The kernel of `op`: that of an architecture, or the one for all."""
        path = kernel_path(op, arch)
        return Source(path.name, path.read_text())

    def entries(self) -> dict[str, list[tuple[str, str]]]:
        """Kernel name -> [(type, argument name)]; what several kernels take may be a macro."""
        found = {}
        texts = (self.text, *(path.read_text() for path in ASCEND.glob("common/*.h")))
        shared = {name: value.replace("\\\n", " ") for text in texts for name, value in _PARAMETERS.findall(text)}
        for name, arguments, _ in _ENTRY.findall(self.text):
            pairs = [tuple(a.split()) for a in shared.get(arguments, arguments).split(",")]
            found[name + self.suffix] = [(kind, argument) for kind, argument in pairs]
        return found

    def unit(self) -> str:
        """The text as a part of a translation unit, with a host entry for every kernel."""
        text = self.text
        types = {}
        for name, _, kernel_type in _ENTRY.findall(self.text):
            types[name + self.suffix] = kernel_type
            text = re.sub(rf"\b{name}\b(?=\()", name + self.suffix, text)
        text = f'#line 1 "{self.name}"\n{text}'
        if self.suffix:  # its classes must not meet those of another version; headers are everyone's
            includes = "\n".join(re.findall(r"^#include .*$", text, re.MULTILINE))
            text = re.sub(r"^#include .*$", "", text, flags=re.MULTILINE)
            text = f"namespace v4npu {{ using namespace ::v4npu; }}\n{text}"
            text = f"{includes}\nnamespace emulated{self.suffix} {{\n{text}\n}}"
        calls = "".join(
            f"const char* emulate_{name}(const char* sku, int64_t blocks, const v4npu::emulation::Region* regions,"
            f" int64_t num_regions, void* const* values, int64_t num_values, const char* ignored_wait, bool trace,"
            f" v4npu::emulation::Report* report) {{\n"
            f"  return v4npu::emulation::run({self._scope()}{name}, AscendC::{types[name]},"
            f' "{name}", sku, blocks, regions, num_regions,'
            f" values, num_values, ignored_wait, trace, report);\n}}\n"
            f"const char* launch_{name}(const char* sku, int64_t blocks, const char* packed, int64_t bytes,"
            f" v4npu::emulation::AllocationOf allocation_of) {{\n"
            f"  return v4npu::emulation::run_packed({self._scope()}{name}, AscendC::{types[name]},"
            f' "{name}", sku, blocks, packed, bytes, allocation_of);\n}}\n'
            for name in self.entries()
        )
        return f'{text}\n#line 1 "host entries"\nextern "C" {{\n{calls}}}\n'

    def _scope(self) -> str:
        return f"emulated{self.suffix}::" if self.suffix else ""


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


def all_kernels(arch: int, environ: Mapping[str, str] = os.environ) -> Kernels:
    """The kernels of all operators: what `v4npu emulate` launches and the tests share with it."""
    return Kernels([Source.of(op, arch) for op in kernel_ops()], arch, cache_folder(environ))


def compiler() -> str | None:
    """The C++ compiler: $CXX, g++ or clang++, whichever is found first."""
    for candidate in (os.environ.get("CXX"), "g++", "clang++"):
        if candidate and shutil.which(candidate):
            return candidate
    return None


def library(sources: Sequence[Source], arch: int, cache: Path) -> Path:
    """The kernels as a shared library: what stands for a device binary of that architecture."""
    unit = '#include "launch.h"\n#include "../common/rows.h"\n' + "\n".join(source.unit() for source in sources)
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("the emulator needs a C++ compiler: set CXX or install g++")
    version = subprocess.run([cxx, "--version"], check=True, capture_output=True, text=True).stdout
    headers = sorted(p for folder in (*INCLUDES, ASCEND / "common") for p in folder.rglob("*.h"))

    def make(scratch: Path, target: Path) -> None:
        source = scratch / "unit.cpp"
        source.write_text(unit)
        flags = [*FLAGS, f"-D__NPU_ARCH__={arch}", *(f"-I{folder}" for folder in INCLUDES)]
        done = subprocess.run([cxx, *flags, str(source), "-o", str(target)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{cxx} failed on a kernel for {arch}:\n{done.stderr}")

    return built(cache, "{}.so", [unit, str(arch), version, *FLAGS, *(p.read_text() for p in headers)], make)
