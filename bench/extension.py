"""v4npu._C of this checkout by the C++ compiler alone, for a machine with torch and nothing that builds wheels.

What CMakeLists.txt and backends/cpu/kernels.cmake say, whose lists of files and of instructions are read from them.
pybind11 is the one in torch's headers.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMON = ["-O3", "-DNDEBUG", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
STABLE = "-DTORCH_TARGET_VERSION=0x020b000000000000"
KERNEL = ["-ffp-contract=off", "-fno-math-errno", "-I", str(ROOT / "csrc/include"), "-I", str(ROOT / "backends/cpu")]


class Missing(RuntimeError):
    """What the machine has to have, or what its compiler said."""


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def instruction_sets() -> dict[str, list[str]]:
    """Each that the CPU kernels are compiled for on this machine, and the compiler's words for it."""
    text = (ROOT / "backends/cpu/kernels.cmake").read_text()
    machine = os.uname().machine
    known = re.findall(r'MATCHES "\^\(([^)]*)\)\$"\)\n  set\(isas ([^)]*)\)', text)
    names = next((isas for machines, isas in known if machine in machines.split("|")), "portable").split()
    flags: dict[str, str] = {}
    for isa, words in re.findall(r"\bset\(flags_(\w+) ([^)]*)\)", text):  # a list may begin with one before it
        flags[isa] = re.sub(r"\$\{flags_(\w+)\}", lambda m: flags[m[1]], words)
    more = dict(re.findall(r"list\(APPEND flags_(\w+) ([^)]*)\)", text))  # GCC's, whose unknown -Wno- others pass over
    return {isa: f"{flags.get(isa, '')} {more.get(isa, '')}".split() for isa in names}


def units() -> Iterator[tuple[Path, list[str]]]:
    """Every file that is compiled, and with what."""
    include = torch_folder() / "include"
    # Not of the bindings: torch 2.11 refuses its pybind11 to who names a version.
    bindings = [*COMMON, f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
    bindings += ["-isystem", str(include), "-isystem", sysconfig.get_path("include")]
    host = [*bindings, STABLE]
    yield from ((path, bindings) for path in sorted(ROOT.glob("csrc/bindings/*.cpp")))
    for folder in ("ops", "plan", "runtime"):
        yield from ((path, host) for path in sorted(ROOT.glob(f"csrc/{folder}/*.cpp")))
    for path in sorted(ROOT.glob("backends/*/**/*.cpp")):
        if "runtime" not in path.parts and "_kernel" not in path.stem:
            yield path, host
    for isa, flags in instruction_sets().items():
        for path in sorted(ROOT.glob("backends/cpu/ops/*_kernel.cpp")):
            yield path, [*COMMON, *KERNEL, *flags, f"-DV4NPU_ISA={isa}"]


def build(folder: Path, jobs: int) -> Path:
    """The extension, linked into the package; what lies in `folder` and is newer than every source is kept.

    Raises:
        Missing: no compiler, no headers of Python, or what the compiler said.
    """
    cxx = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not cxx:
        raise Missing("no C++ compiler: install g++ 12 or later, or name one in CXX")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise Missing(
            f"no Python.h in {sysconfig.get_path('include')}: install python3-dev, or use a Python that has it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(p.stat().st_mtime for part in ("csrc", "backends") for p in (ROOT / part).rglob("*.h"))

    def compiled(unit: tuple[int, tuple[Path, list[str]]]) -> Path:
        number, (source, flags) = unit
        out = folder / f"{number}_{source.stem}.o"
        if not out.exists() or out.stat().st_mtime < max(newest, source.stat().st_mtime):
            done = subprocess.run([cxx, *flags, "-c", str(source), "-o", str(out)], capture_output=True, text=True)
            if done.returncode:
                raise Missing(f"{cxx} failed on {source.relative_to(ROOT)}:\n{done.stderr}")
        return out

    work = list(enumerate(units()))
    print(f"v4npu._C: {len(work)} files by {cxx}, {jobs} at a time", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        objects = [str(out) for out in pool.map(compiled, work)]
    built = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    link = [cxx, "-shared", *objects, f"-L{torch_folder() / 'lib'}", "-ltorch_cpu", "-o", str(built)]
    done = subprocess.run(link, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{cxx} failed to link {built.name}:\n{done.stderr}")
    place = ROOT / "v4npu" / built.name
    place.unlink(missing_ok=True)
    place.symlink_to(built)
    return built
