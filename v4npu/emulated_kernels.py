"""Ascend kernels compiled for the emulated chip, by the host's C++ compiler: what stands for a device's binaries.

Kernels and emulator are C++ text under backends/ascend, which a wheel carries in v4npu/native.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from v4npu.kernel_cache import ASCEND, ROOT, built, compiler, kernel_ops, kernel_path

INCLUDES = (ASCEND / "emulation", ASCEND / "ops", ROOT / "csrc/include")
FLAGS = ("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread", "-ffp-contract=off")
_ENTRY = re.compile(r'extern "C" __global__ __aicore__ void (\w+)\(([^)]*)\) \{\s*KERNEL_TASK_TYPE_DEFAULT\((\w+)\);')
_PARAMETERS = re.compile(r"#define (\w+_PARAMETERS)\s((?:.*\\\n)*.*)")


def skus() -> dict[str, int]:
    """The SKUs that can be emulated and their architecture."""
    table = (ASCEND / "emulation/skus.h").read_text()
    return {name: int(arch) for name, arch in re.findall(r'\{"(\w+)", (\d+), ', table)}


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


def all_sources(arch: int) -> list[Source]:
    """The kernels of all operators for an architecture: what `v4npu emulate` launches and the tests share with it."""
    return [Source.of(op, arch) for op in kernel_ops()]


def library(sources: Sequence[Source], arch: int, cache: Path) -> Path:
    """The kernels as a shared library: what stands for a device binary of that architecture."""
    unit = '#include "launch.h"\n#include "../common/rows.h"\n' + "\n".join(source.unit() for source in sources)
    cxx, version = compiler()
    headers = sorted(p for folder in (*INCLUDES, ASCEND / "common") for p in folder.rglob("*.h"))

    def make(scratch: Path, target: Path) -> None:
        source = scratch / "unit.cpp"
        source.write_text(unit)
        flags = [*FLAGS, f"-D__NPU_ARCH__={arch}", *(f"-I{folder}" for folder in INCLUDES)]
        done = subprocess.run([cxx, *flags, str(source), "-o", str(target)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{cxx} failed on a kernel for {arch}:\n{done.stderr}")

    return built(cache, "{}.so", [unit, str(arch), version, *FLAGS, *(p.read_text() for p in headers)], make)
