"""Where a measurement was made, and files of measurements: one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch

from v4npu import _C, __version__
from v4npu.bench.timing import Clock, Peaks
from v4npu.device import status

Row = dict[str, Any]
SCHEMA = 1
SEED = 0


def environment(clock: Clock, roof: Peaks) -> Row:
    """The first row of a file; nothing in it names the machine's owner, user or network."""
    kind = clock.device.type
    caps = next(c for c in _C.caps() if c.kind == "cpu")
    names = status(kind).names if kind != "cpu" else ()
    read, gemm = roof or (None, None)
    return {
        "kind": "environment",
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": kind,
        "device_name": names[clock.device.index or 0] if names else cpu_name(),
        "emulated": clock.emulated,
        "cpu": cpu_name(),
        "cpu_features": " ".join([caps.name, *caps.features]),
        "isa": caps.only or _C.cpu_isas()[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "v4npu": __version__,
        "commit": commit(),
        "extension": hashlib.sha256(Path(_C.__file__).read_bytes()).hexdigest()[:16],
        "seed": SEED,
        "clock": clock.method,
        "read_peak": read,
        "gemm_peak": gemm,
    }


def cpu_name() -> str:
    """What the CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str | None:
    """The commit of the checkout that this package lies in, with a + if files of it differ; None outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def replacing(option: str, path: str, keep: bool = False) -> Iterator[TextIO]:
    """A file for text: PATH.part, which takes the place of PATH at the end; stdout for "-".

    What was there stays if something fails, and then PATH.part too if `keep`. A pipe or a device is written to as it
    is.

    Raises:
        ValueError: nothing can be written there.
    """
    if path == "-":
        yield sys.stdout
        return
    target = Path(os.path.realpath(path))
    whole = not target.exists() or target.is_file()
    part = target.with_name(target.name + ".part") if whole else target
    try:
        file = open(part, "w", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{option} {path}: {error.strerror}") from error
    try:
        with file:
            yield file
        if whole:
            os.replace(part, target)
    except BaseException:
        if whole and not keep:
            part.unlink(missing_ok=True)
        raise


def write(file: TextIO | None, row: Row) -> None:
    """A line of a file of rows, there as soon as it is known; in ASCII, whatever stdout may be able to print."""
    if file is not None:
        print(json.dumps(row, allow_nan=False), file=file, flush=True)
