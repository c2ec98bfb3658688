#!/usr/bin/env python3
"""Compiles the CUDA kernels: a fatbin per operator for sm_80, sm_90a and sm_100, and checks what each kernel takes.

    python backends/cuda/build.py [--out build/cuda] [--nvcc nvcc] [--jobs 2] [op ...]
    python backends/cuda/build.py --current [--out build/cuda]     fails unless every file there is up to date

ops/<op>_kernel_sm90.cu holds what an operator has besides for sm_90 and later: <op>_sm90.fatbin, without sm_80.

Every kernel file states its limits: "// Limits: 40 registers, 0 bytes of stack, 64 bytes of shared memory." More than
that on any architecture, or a single spilled register, fails the build. Needs nvcc 12.8 or later and no GPU; nvrtc.py
stands in for nvcc where there are only the wheels of CUDA 12.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
ARCHS = {"sm_80": "compute_80", "sm_90a": "compute_90a", "sm_100": "compute_100"}
FLAGS = (
    "-std=c++20",
    "-O3",
    "-fmad=false",
    "--expt-relaxed-constexpr",
    "-lineinfo",
    "--Werror=all-warnings",
    "-Xptxas=-v",
    "-fatbin",
)
LIMITS = re.compile(r"^// Limits: (\d+) registers, (\d+) bytes of stack, (\d+) bytes of shared memory\.$", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture."""

    kernel: str
    arch: str
    registers: int
    stack: int
    spills: int
    shared: int  # static, in bytes


class BuildError(RuntimeError):
    """nvcc failed, or a kernel takes more than it says."""


def parse_usage(text: str) -> list[Usage]:
    """The usages that `ptxas -v` tells."""
    found = []
    for part in re.split(r"(?=ptxas info\s*: Compiling entry function)", text):
        entry = re.search(r"entry function '(\w+)' for '(\w+)'", part)
        if not entry:
            continue
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        if not frame or not registers:
            raise BuildError(f"no resource usage of {entry[1]} in:\n{part}")
        shared = re.search(r"(\d+) bytes smem", part)
        spills = int(frame[2]) + int(frame[3])
        found.append(
            Usage(entry[1], entry[2], int(registers[1]), int(frame[1]), spills, int(shared[1]) if shared else 0)
        )
    return found


def violations(op: str, text: str, usages: list[Usage]) -> list[str]:
    """What breaks the limits that the kernel file `text` states."""
    limits = LIMITS.search(text)
    if not limits:
        return [f"{op}: the kernel file states no limits"]
    registers, stack, shared = map(int, limits.groups())
    wrong = []
    for u in usages:
        for name, value, limit in (
            ("registers", u.registers, registers),
            ("bytes of stack", u.stack, stack),
            ("bytes spilled", u.spills, 0),
            ("bytes of shared memory", u.shared, shared),
        ):
            if value > limit:
                wrong.append(f"{u.kernel} on {u.arch}: {value} {name}, limit {limit}")
    return wrong


def sources() -> dict[str, Path]:
    """Name of a fatbin -> its kernel file: an operator, or an operator and "_sm90"."""
    return {p.stem.replace("_kernel", ""): p for p in sorted(FOLDER.glob("ops/*_kernel*.cu"))}


def archs_of(name: str) -> dict[str, str]:
    """What a kernel file is compiled for."""
    return {real: virtual for real, virtual in ARCHS.items() if real != "sm_80" or not name.endswith("_sm90")}


def key_of(op: str, version: str) -> str:
    """What a fatbin depends on."""
    headers = [*sorted(FOLDER.glob("device/*")), *sorted((ROOT / "csrc/include").rglob("*.h"))]
    texts = [version, *FLAGS, *archs_of(op), *(p.read_text() for p in [sources()[op], *headers])]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def known(op: str, out: Path, version: str = "") -> list[Usage] | None:
    """What the kernels of an up to date out/<op>.fatbin take, by any nvcc if no version is named; None: it is not."""
    fatbin, record = out / f"{op}.fatbin", out / f"{op}.json"
    if not fatbin.exists() or not record.exists():
        return None
    values = json.loads(record.read_text())
    usages = [Usage(**u) for u in values["usages"]]
    return usages if values["key"] == key_of(op, version or values["version"]) else None


def compile_op(op: str, out: Path, nvcc: str, version: str) -> list[Usage]:
    """Writes out/<op>.fatbin unless it is up to date; what its kernels take.

    Raises:
        BuildError: nvcc failed, or a limit is broken.
    """
    source, fatbin = sources()[op], out / f"{op}.fatbin"
    usages = known(op, out, version)
    if usages is None:
        archs = [f"-gencode=arch={virtual},code={real}" for real, virtual in archs_of(op).items()]
        command = [nvcc, *FLAGS, *archs, f"-I{ROOT / 'csrc/include'}", str(source), "-o", str(fatbin)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(f"nvcc failed on {source.name}:\n{done.stdout}{done.stderr}")
        usages = parse_usage(done.stdout + done.stderr)
        record = {"key": key_of(op, version), "version": version, "usages": [asdict(u) for u in usages]}
        (out / f"{op}.json").write_text(json.dumps(record))
    if {u.arch for u in usages} != set(archs_of(op)):
        raise BuildError(f"{op}: compiled for {sorted({u.arch for u in usages})}, not for {sorted(archs_of(op))}")
    if wrong := violations(op, source.read_text(), usages):
        fatbin.unlink()
        raise BuildError("\n".join(wrong))
    return usages


def build(out: Path, ops: list[str], nvcc: str = "nvcc", jobs: int = 2) -> dict[str, list[Usage]]:
    """Compiles `ops`, all of them when the list is empty.

    Raises:
        BuildError: what was wrong with each that failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = ops or list(sources())
    if unknown := sorted(set(names) - set(sources())):
        raise BuildError(f"no CUDA kernel of {', '.join(unknown)}; there are {', '.join(sources())}")
    version = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    with ThreadPoolExecutor(jobs) as pool:
        running = {op: pool.submit(compile_op, op, out, nvcc, version) for op in names}
    if failed := [str(error) for future in running.values() if (error := future.exception())]:
        raise BuildError("\n".join(failed))
    return {op: future.result() for op, future in running.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", help="operators; all if none is named")
    parser.add_argument("--out", type=Path, default=ROOT / "build/cuda")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--current", action="store_true", help="compile nothing")
    args = parser.parse_args()
    if args.current:
        stale = [op for op in sources() if known(op, args.out) is None]
        print(f"{args.out}: not up to date: {', '.join(stale)}" if stale else f"{args.out}: up to date")
        return int(bool(stale))
    try:
        built = build(args.out, args.ops, args.nvcc, args.jobs)
    except (BuildError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'kernel':32} {'arch':7} registers stack shared")
    for usages in built.values():
        for u in usages:
            print(f"{u.kernel:32} {u.arch:7} {u.registers:9} {u.stack:5} {u.shared:6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
