"""Runs `.cu` kernels on the host, through the launchers that a GPU would be served by.

The kernels' text is compiled by the host's C++ compiler against backends/cuda/emulation, and a library that calls
itself libcuda.so.1 runs it: checks, launcher, plan, driver calls and kernel are those of a GPU, the tensors lie in host
memory. Works from a source checkout only. Whatever passes here is emulated, not run on a device.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from v4npu import _C
from v4npu.kernel_cache import built, compiler
from v4npu.testing.ascend import KernelFault
from v4npu.testing.guard import run_guarded

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "backends/cuda"
INCLUDES = (FOLDER / "emulation", ROOT / "csrc/include")
COMMON = ("-std=c++20", "-g1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-U_FORTIFY_SOURCE", "-ffp-contract=off")
KERNEL = (*COMMON, "-O1", "-fsanitize=thread", "-DV4NPU_CUDA_EMULATION")
RUNTIME = (*COMMON, "-O2")
READ, WRITE, READ_WRITE = range(3)
# Times the error ratio, for float32 activations on tensor cores, whose sums are cut off instead of rounded; and how
# many such products an operator has one behind the other.
FLOAT32_ON_TENSOR_CORES = 3.0
TENSOR_CORE_OPS = {"linear": 1, "fp8_linear": 1, "fp4_linear": 1, "grouped_linear": 1, "moe_experts": 2}
# Whose kernels an operator launches besides its own.
BORROWED = {"moe_experts": ("act_quant", "moe_experts_sm90"), "indexer_topk": ("indexer_scores", "indexer_topk_sm90")}
STREAM = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void** stream) { *stream = nullptr; return 0; }'


@dataclass(frozen=True)
class Gpu:
    """An invented device."""

    major: int
    minor: int
    multiprocessors: int
    shared_bytes: int  # a block may have, once it asks


GPUS = {
    "A100": Gpu(8, 0, 108, 163 << 10),
    "H100": Gpu(9, 0, 132, 227 << 10),
    "H200": Gpu(9, 0, 132, 227 << 10),
    "B200": Gpu(10, 0, 148, 227 << 10),
    "RTX 4090": Gpu(8, 9, 128, 99 << 10),
}


def script(path: str) -> ModuleType:
    """The checkout's Python file at `path`, which belongs to no package, as a module."""
    name = "cuda_" + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def kernel_sources() -> dict[str, Path]:
    """Operator -> its kernel file."""
    return {p.name.removesuffix("_kernel.cu"): p for p in sorted(FOLDER.glob("ops/*_kernel.cu"))}


def kernel_files() -> dict[str, Path]:
    """Name of a fatbin -> its kernel file; what an operator has besides for sm_90 is one of its own."""
    return {p.stem.replace("_kernel", ""): p for p in sorted(FOLDER.glob("ops/*_kernel*.cu"))}


class _LaunchConfig(ctypes.Structure):
    """LaunchConfig of backends/cuda/driver_abi.h."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("shared_bytes", ctypes.c_uint32),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("num_attributes", ctypes.c_uint32),
    )  # fmt: skip


class EmulatedGpu:
    """The operators with CUDA kernels on one emulated device; one at a time in a process."""

    def __init__(self, cache: Path, gpu: Gpu = GPUS["H100"]) -> None:
        """Operators are compiled when they are first run, unless they are in the folder `cache`. The launchers ask for
        the device once in a process.
        """
        self.cache = cache
        runtime = _library('#include "driver.h"', RUNTIME, ("-Wl,-soname,libcuda.so.1",), cache)
        stream = _library(STREAM, RUNTIME, ("-Wl,-soname,libtorch_cuda.so",), cache)
        self._driver = ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        # Found as torch's own library is where torch has none; one with CUDA has loaded it before.
        ctypes.CDLL(str(stream), mode=ctypes.RTLD_GLOBAL if torch.version.cuda else ctypes.RTLD_LOCAL)
        self._driver.emulation_barriers.restype = self._driver.emulation_launches.restype = ctypes.c_char_p
        self._driver.emulation_device(gpu.major, gpu.minor, gpu.multiprocessors, gpu.shared_bytes)
        self._folder = tempfile.TemporaryDirectory(prefix="kernels", dir=cache)  # of this process
        os.environ["V4NPU_CUDA_KERNELS"] = self._folder.name

    def compile(self, text: str, path: Path) -> Path:
        """The file that the emulated driver loads in place of a fatbin of the kernel file `path` with this text."""
        return _library(text, KERNEL, (), self.cache, str(path))

    def _provide(self, op: str) -> None:
        """Puts the kernels that the launcher of `op` uses where it looks for them."""
        for name in (op, *BORROWED.get(op, ())):
            link, path = Path(self._folder.name) / f"{name}.fatbin", kernel_files()[name]
            if not link.exists():
                link.symlink_to(self.compile(path.read_text(), path))

    def launch(
        self,
        file: Path,
        kernel: str,
        params: ctypes.Structure,
        tensors: dict[str, tuple[Tensor, int]],
        grid: tuple[int, int, int] = (1, 1, 1),
        threads: int = 32,
        shared_bytes: int = 0,
    ) -> None:
        """Launches a kernel without a launcher; `tensors` is what it may touch, and how (READ, WRITE, READ_WRITE).

        Raises:
            KernelFault: the driver's text.
        """
        self._driver.emulation_reset(b"")
        for name, (tensor, access) in tensors.items():
            self._region(tensor, access, name)
        library, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self._driver.cuLibraryLoadFromFile(ctypes.byref(library), str(file).encode(), 0, 0, 0, 0, 0, 0))
        self._check(self._driver.cuLibraryGetKernel(ctypes.byref(function), library, kernel.encode()))
        values = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        context = ctypes.c_void_p()
        self._check(self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        self._check(self._driver.cuCtxPushCurrent_v2(context))
        config = _LaunchConfig(grid, (threads, 1, 1), shared_bytes, None, None, 0)
        code = self._driver.cuLaunchKernelEx(ctypes.byref(config), function, values, None)
        self._check(self._driver.cuCtxPopCurrent_v2(ctypes.byref(context)))
        self._check(code)

    def _check(self, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            raise KernelFault((text.value or b"").decode())

    def run(self, op: str, args: Sequence[Any], ignored_barrier: str = "") -> tuple[Tensor, ...]:
        """The results of torch.ops.v4npu.<op> as its CUDA kernel computes them, in poisoned and guarded memory.

        Args:
            ignored_barrier: "file:line" of a barrier that then orders nothing.

        Raises:
            RuntimeError: the kernel did something wrong; the message ends with the emulator's sentence.
            ValueError: the launcher refused an argument.
        """
        self._provide(op)
        self._driver.emulation_reset(ignored_barrier.encode())
        schema = getattr(torch.ops.v4npu, op).default._schema.arguments
        for argument, value in zip(schema, args, strict=False):
            if isinstance(value, Tensor):
                written = argument.alias_info is not None and argument.alias_info.is_write
                self._region(value, READ_WRITE if written else READ, argument.name)
        count = 0

        def seen(tensor: Tensor, empty: bool) -> None:
            nonlocal count
            count += 1
            self._region(tensor, WRITE if empty else READ, f"buffer {count}")

        _C.check_as_on_a_device(True)
        try:
            out, _, intact = run_guarded(op, tuple(args), torch._C.DispatchKey.CUDA, seen)
        finally:
            _C.check_as_on_a_device(False)
        if not intact:
            raise AssertionError("a kernel wrote beside its output")
        return out

    def dry_run(self, op: str, args: Sequence[Any]) -> list[list[str]]:
        """The launches that torch.ops.v4npu.<op> would be, none of which is executed."""
        self._driver.emulation_dry(1)
        try:
            self.run(op, args)
        finally:
            self._driver.emulation_dry(0)
        return self.launches()

    def barriers(self) -> list[str]:
        """ "file:line" of the barriers that the last run passed."""
        return self._driver.emulation_barriers().decode().split()

    def launches(self) -> list[list[str]]:
        """Kernel, grid (3), threads, bytes of shared memory and overlap (0, 1) of each launch of the last run."""
        return [line.split() for line in self._driver.emulation_launches().decode().splitlines()]

    def _region(self, tensor: Tensor, access: int, name: str) -> None:
        if tensor.numel() == 0:
            return
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        size = (last + 1) * tensor.element_size()
        self._driver.emulation_region(ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(size), access, name.encode())


def _library(
    text: str, flags: Sequence[str], link: Sequence[str], cache: Path, name: str = str(FOLDER / "emulation/unit.cpp")
) -> Path:
    """A shared library of `text`, which is taken to be the file `name`; kept as long as no text it may read changes."""
    cxx, version = compiler()
    folders = (FOLDER / "device", *INCLUDES)  # what a kernel or the runtime may include
    headers = sorted(p for folder in folders for p in folder.rglob("*.*h") if p.is_file())
    texts = [text, name, version, *flags, *link, *(p.read_text() for p in headers)]

    def make(scratch: Path, target: Path) -> None:
        source, unit = scratch / "unit.cpp", str(scratch / "unit.o")
        source.write_text(f'#line 1 "{name}"\n{text}')
        includes = [f"-I{folder}" for folder in (Path(name).parent, *INCLUDES)]
        # Linked apart: -fsanitize=thread would bring in the sanitizer's own runtime.
        for command in (
            [cxx, *flags, *includes, "-c", str(source), "-o", unit],
            [cxx, "-shared", *link, unit, "-o", str(target)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{cxx} failed on {Path(name).name}:\n{done.stderr}")

    return built(cache, "{}.so", texts, make)
