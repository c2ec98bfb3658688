"""A wheel carries the kernels where nvcc is, and those that `make cuda` has left; the launchers find them there."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from v4npu import _C
from v4npu.testing.cuda import kernel_files

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
NVCC = """#!/bin/sh
[ "$1" = --version ] && { echo "an nvcc of the tests"; exit; }
while [ "$1" != -o ]; do
  case $1 in -gencode=*) archs="$archs ${1##*=}" ;; esac
  shift
done
echo code > "$2"
for arch in $archs; do echo "ptxas info : Compiling entry function 'f' for '$arch'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info : Used 8 registers"; done
"""
# The extension's place in the project, without the extension.
PROJECT = """cmake_minimum_required(VERSION 3.26)
project(v4npu LANGUAGES NONE)
include(backends/cuda/kernels.cmake)
"""


def shipped(folder: Path, nvcc: Path | None, **defined: str) -> set[str]:
    """What a wheel of the checkout copied to `folder` would carry of CUDA."""
    make = shutil.which("make")
    assert CMAKE and make
    given = {"SKBUILD": "2", "Python_EXECUTABLE": sys.executable, "CMAKE_MAKE_PROGRAM": make, **defined}
    for place in ("CMAKE_SYSTEM", "SYSTEM_ENVIRONMENT"):  # nobody else's nvcc
        given[f"CMAKE_FIND_USE_{place}_PATH"] = "OFF"
    if nvcc:
        given["V4NPU_NVCC"] = str(nvcc)
    build, wheel = folder / "cmake", folder / "wheel"
    for path in (build, wheel):
        shutil.rmtree(path, ignore_errors=True)
    for command in (
        ["-S", folder, "-B", build, "-G", "Unix Makefiles", *(f"-D{name}={value}" for name, value in given.items())],
        ["--build", build],
        ["--install", build, "--prefix", wheel],
    ):
        done = subprocess.run([CMAKE, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return {str(p.relative_to(wheel)) for p in wheel.rglob("*") if p.is_file()}


def test_a_wheel_carries_kernels_where_nvcc_is_or_make_cuda_was_run(tmp_path: Path) -> None:
    everything = {f"v4npu/cuda/{op}.fatbin" for op in kernel_files()}
    for part in ("backends/cuda", "csrc/include"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)
    assert shipped(tmp_path, None) == set()
    assert shipped(tmp_path, nvcc, V4NPU_CUDA="OFF") == set()
    assert shipped(tmp_path, nvcc) == everything
    assert shipped(tmp_path, None) == everything  # what the run before has left in build/cuda
    with open(tmp_path / "backends/cuda/ops/rope_kernel.cu", "a") as kernel:
        kernel.write("// changed since\n")
    assert shipped(tmp_path, None) == set()


def architectures(fatbin: bytes) -> list[int]:
    """Of the ELF files in NVIDIA's container: a header, then each behind a header of its own."""
    magic, _, at, size = struct.unpack_from("<IHHQ", fatbin)
    assert magic == 0xBA55ED50 and at + size == len(fatbin)
    found = []
    while at < len(fatbin):
        _, _, header, code = struct.unpack_from("<HHIQ", fatbin, at)
        found += struct.unpack_from("<I", fatbin, at + 28)
        assert fatbin[at + header :].startswith(b"\x7fELF")
        at += header + code
    return found


def test_an_installed_wheel_carries_all_kernels_or_none() -> None:
    try:
        installed = [Path(p.locate()) for p in files("v4npu") or () if str(p).startswith("v4npu/cuda/")]
    except PackageNotFoundError:
        installed = []
    carried = {path.stem for path in installed}
    assert carried in (set(), set(kernel_files()))
    for path in (*installed, *(ROOT / "build/cuda").glob("*.fatbin")):
        want = [90, 100] if path.stem.endswith("_sm90") else [80, 90, 100]
        assert architectures(path.read_bytes()) == want, path
    if "CI" in os.environ and (shutil.which("nvcc") or (ROOT / ".venv-nvcc/nvcc").exists()):
        assert carried


def test_the_launchers_find_the_kernels_beside_the_extension(tmp_path: Path) -> None:
    package = tmp_path / "v4npu"
    shutil.copytree(ROOT / "v4npu", package, ignore=shutil.ignore_patterns("*.so", "cuda", "data", "__pycache__"))
    (package / Path(_C.__file__).name).symlink_to(Path(_C.__file__).resolve())
    code = """from pathlib import Path; from v4npu import _C
def kernels(): return next(c.features for c in _C.caps() if c.kind == "cuda")
before = kernels(); Path(_C.__file__).with_name("cuda").mkdir(); print(_C.__file__, before, kernels())"""
    clean = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{package / Path(_C.__file__).name} [] ['kernels']\n"
