"""How long a call takes here, how fast memory and torch's GEMM are, and how much memory was used."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from v4npu.model.memory import WeightMemory

Call = Callable[[], Any]
Peaks = tuple[float, float] | None  # bytes per second read from memory, flops per second of torch's GEMM
LEAST = 3  # calls that a median is made of
FLUSHED = 256 << 20  # bytes, more than the caches of any device


class Clock:
    """Seconds of calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.emulated = device.type != "cpu" and "V4NPU_EMULATE_SOC" in os.environ
        self._events = device.type != "cpu" and not self.emulated
        self._flush = torch.empty(FLUSHED if self._events else 0, dtype=torch.uint8, device=device)
        if self._events:
            self.method = "device events, each call behind a write larger than the caches"
        elif self.emulated:
            self.method = "wall time of an emulation, not performance"
        elif torch.get_num_threads() == 1:
            self.method = "time of the one thread, which a busy machine disturbs least"
        else:
            self.method = "wall time"

    def once(self, run: Call) -> float:
        if self._events:
            self._flush.zero_()  # the device is busy until the host has put the call behind it
            begin, end = (torch.Event(self.device, enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) * 1e-3
        clock = time.thread_time if self.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        self.wait()
        start = clock()
        run()
        self.wait()
        return clock() - start

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def samples(self, run: Call, seconds: float) -> list[float]:
        """Of as many calls as fit, LEAST at least, after one to warm up."""
        run()
        found, end = list[float](), time.perf_counter() + seconds
        while len(found) < LEAST or time.perf_counter() < end:
            found.append(self.once(run))
        return found


def stats(samples: Sequence[float]) -> dict[str, Any]:
    """What a row says of its samples."""
    ordered = sorted(samples)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.95))
    return {"seconds": statistics.median(ordered), "best": ordered[0], "p5": low, "p95": high, "repeats": len(ordered)}


def peaks(clock: Clock, dtype: torch.dtype, seconds: float = 1.0) -> Peaks:
    """What bounds a call in this dtype: the GEMM is float32's where that is faster. None on an emulated device."""
    if clock.emulated:
        return None
    block = WeightMemory(clock.device).empty((1 << 26,), torch.float32).fill_(1)  # zeros may be one page, many times
    read = block.nbytes / min(clock.samples(lambda: block.sum(), seconds))
    rows, cols, depth = (2048, 4096, 1024) if clock.device.type == "cpu" else (8192, 8192, 8192)
    took = []
    for t in {dtype, torch.float32}:
        x, w = (torch.ones(n, depth, dtype=t, device=clock.device) for n in (rows, cols))
        took.append(min(clock.samples(lambda x=x, w=w: torch.nn.functional.linear(x, w), seconds)))  # type: ignore[misc]
    return read, 2.0 * rows * cols * depth / min(took)


def limit(row: dict[str, Any], roof: Peaks) -> dict[str, float]:
    """The share of the roofline that a timed row reaches."""
    if roof is None:
        return {}
    return {"limit": max(row["bytes"] / roof[0], row["flops"] / roof[1]) / row["seconds"]}


def peak_mib() -> float:
    """Highest resident memory of this process, since reset_peak() if that was called."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def reset_peak() -> bool:
    """Makes peak_mib forget; False where the kernel does not let us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
