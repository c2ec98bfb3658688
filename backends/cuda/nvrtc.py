"""Stands in for nvcc, with the flags that build.py gives it: NVRTC, ptxas and nvFatbin of one CUDA release.

    python backends/cuda/nvrtc.py --version
    python backends/cuda/nvrtc.py -fatbin -gencode=arch=compute_80,code=sm_80 [flags] kernel.cu -o kernel.fatbin

NVIDIA's wheels of CUDA 12 hold these three and no nvcc. They are looked for in the environment of this interpreter.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

NVIDIA = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
# What kernels need of the headers that a host compiler would bring.
HEADERS = {
    b"cmath": b"",
    b"cstdint": b"""#pragma once
typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned uint32_t; typedef long int64_t; typedef unsigned long uint64_t;
typedef unsigned long uintptr_t;
""",
    b"cstring": b"""#pragma once
namespace std { using ::memcpy; }
""",
}


class CompileError(RuntimeError):
    """What the compiler said."""


def part(pattern: str) -> Path:
    """The one file of the release that matches."""
    found = sorted(NVIDIA.glob(pattern))
    if not found:
        raise CompileError(f"no {pattern} in {NVIDIA}")
    return found[0]


def check(library: ctypes.CDLL, name: str, *args: object) -> None:
    if code := getattr(library, name)(*args):
        raise CompileError(f"{name} failed with {code}")


def ptx_of(source: Path, virtual: str, flags: list[str]) -> bytes:
    """What NVRTC makes of a file for a virtual architecture."""
    nvrtc = ctypes.CDLL(str(part("cuda_nvrtc/lib/libnvrtc.so.*")))
    program = ctypes.c_void_p()
    count = len(HEADERS)
    texts, names = (ctypes.c_char_p * count)(*HEADERS.values()), (ctypes.c_char_p * count)(*HEADERS)
    text, name = source.read_bytes(), str(source).encode()
    check(nvrtc, "nvrtcCreateProgram", ctypes.byref(program), text, name, count, texts, names)
    options = [f"-arch={virtual}", "-default-device", f"-I{source.parent}", *flags]
    given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)

    def result(kind: str) -> bytes:
        size = ctypes.c_size_t()
        check(nvrtc, f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        check(nvrtc, f"nvrtcGet{kind}", program, buffer)
        return buffer.raw

    log = result("ProgramLog").rstrip(b"\0\n").decode()
    if failed or log:  # a warning is an error
        raise CompileError(log or f"nvrtcCompileProgram failed with {failed}")
    return result("PTX").rstrip(b"\0")


def assemble(ptx: bytes, real: str, folder: Path) -> tuple[bytes, str]:
    """What ptxas makes of it, and what it says of registers and spills."""
    source, cubin = folder / f"{real}.ptx", folder / f"{real}.cubin"
    source.write_bytes(ptx)
    command = [
        str(part("cuda_nvcc/bin/ptxas")),
        "-v",
        "-O3",
        f"-arch={real}",
        "-lineinfo",
        str(source),
        "-o",
        str(cubin),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CompileError(done.stderr)
    return cubin.read_bytes(), done.stderr


def fatbin_of(cubins: dict[str, bytes]) -> bytes:
    """One file of code for several architectures."""
    library = ctypes.CDLL(str(part("nvfatbin/lib/libnvfatbin.so.*")))
    handle, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 1)(b"-64")
    check(library, "nvFatbinCreate", ctypes.byref(handle), options, ctypes.c_size_t(1))
    for real, code in cubins.items():
        arch = real.removeprefix("sm_").encode()
        check(library, "nvFatbinAddCubin", handle, code, ctypes.c_size_t(len(code)), arch, b"")
    check(library, "nvFatbinSize", handle, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    check(library, "nvFatbinGet", handle, buffer)
    return buffer.raw


def main(argv: list[str]) -> int:
    ptxas = subprocess.run([str(part("cuda_nvcc/bin/ptxas")), "--version"], capture_output=True, text=True, check=True)
    if argv == ["--version"]:
        print(ptxas.stdout + "NVRTC, ptxas and nvFatbin, in place of nvcc")
        return 0
    out, source = Path(argv[argv.index("-o") + 1]), Path(next(a for a in argv if a.endswith(".cu")))
    flags = [a for a in argv if a.startswith(("-std=", "-fmad=", "-lineinfo", "-I"))]
    targets = [m.groups() for a in argv if (m := re.fullmatch(r"-gencode=arch=(\w+),code=(\w+)", a))]
    with tempfile.TemporaryDirectory() as scratch:
        cubins = {}
        for virtual, real in targets:
            cubins[real], said = assemble(ptx_of(source, virtual, flags), real, Path(scratch))
            sys.stderr.write(said)
    out.write_bytes(fatbin_of(cubins))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CompileError as error:
        sys.exit(str(error))
