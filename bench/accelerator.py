"""A CUDA device as bench/cuda_device.py sees it, and the CPU in its place, so that the same code runs without a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from v4npu import fallback
from v4npu.bench.ops import moved

Call = Callable[[], Any]
IN_GRAPH = 20  # calls that a warm time is the mean of, or as many as end in so many microseconds
GRAPH_MICROSECONDS = 20_000
BUSY_CYCLES = 400_000  # of a GPU: about 0.2 ms
WAKE_SECONDS = 0.05  # of work before times: a GPU that waited for the host, which draws and compares, has clocked down


class Device(Protocol):
    kind: str
    name: str

    def to(self, value: Any) -> Any:
        """A tensor, or those of a tuple, on the device; anything else as it is."""

    def run(self, op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The results of the kernel of `op` on tensors of the device.

        Raises:
            RuntimeError: it would fall back to the reference.
        """

    def capture(self, run: Call) -> tuple[Any, Call]:
        """What `run` returns, in memory that calling the second result writes anew; `run` has been called before."""

    def times(self, call: Call, repeats: int, cold: bool) -> list[float]:
        """Microseconds of single calls, each behind a write larger than the device's caches if `cold`."""

    def peaks(self) -> tuple[float, float]:
        """Bytes per second of a copy, read and written, and flops per second of torch's bfloat16 GEMM."""

    def works(self) -> bool:
        """Whether it still runs anything: a kernel's fault ends a GPU for its process."""


class _Device:
    kind: str

    def to(self, value: Any) -> Any:
        return moved(value, self.kind)

    def run(self, op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        with fallback("error"):  # the cpu is none
            return results_of(getattr(torch.ops.v4npu, op)(*args))

    def _peaks(self: Any, copied: int, size: int) -> tuple[float, float]:
        to, from_ = (torch.zeros(copied, dtype=torch.uint8, device=self.kind) for _ in range(2))
        copy = min(self.times(lambda: to.copy_(from_), 10, False)) * 1e-6
        # Constant values would let a GPU's clock rise.
        x, w = (torch.randn(size, size, dtype=torch.bfloat16, device=self.kind) for _ in range(2))
        gemm = min(self.times(lambda: x @ w.T, 10, False)) * 1e-6
        return 2.0 * copied / copy, 2.0 * size**3 / gemm


class Gpu(_Device):
    kind = "cuda"

    def __init__(self) -> None:
        self.name = torch.cuda.get_device_name()
        self._flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # of the references

    def capture(self, run: Call) -> tuple[Any, Call]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            results = run()
        return results, graph.replay

    def times(self, call: Call, repeats: int, cold: bool) -> list[float]:
        found, awake = [], time.perf_counter() + WAKE_SECONDS
        while time.perf_counter() < awake:
            self._flush.zero_()
            torch.cuda.synchronize()
        for _ in range(repeats):
            if cold:
                self._flush.zero_()
            # The device is kept busy until the host has put the call behind it, whose launches may be many.
            torch.cuda._sleep(BUSY_CYCLES)
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) * 1e3)
        return found

    def peaks(self) -> tuple[float, float]:
        return self._peaks(1 << 30, 8192)

    def works(self) -> bool:
        try:
            torch.zeros(1, device="cuda").item()
        except RuntimeError:
            return False
        return True


class Cpu(_Device):
    """A dry run: nothing that it says is about a GPU."""

    kind = "cpu"
    name = "no device: a dry run on the CPU"

    def capture(self, run: Call) -> tuple[Any, Call]:
        results = run()

        def replay() -> None:
            again = run()
            for old, new in zip(results_of(results), results_of(again), strict=True):
                old.copy_(new)

        return results, replay

    def times(self, call: Call, repeats: int, cold: bool) -> list[float]:
        found = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            found.append((time.perf_counter() - begin) * 1e6)
        return found

    def peaks(self) -> tuple[float, float]:
        return self._peaks(1 << 24, 256)

    def works(self) -> bool:
        return True


def results_of(out: Any) -> tuple[Tensor, ...]:
    """What a call returned, as a tuple."""
    return out if isinstance(out, tuple) else () if out is None else (out,)


def medians(device: Device, call: Call, repeats: int) -> tuple[float, float]:
    """Warm and cold microseconds of a call that has been made before: warm in a graph of several, cold by itself."""
    (once,) = device.times(call, 1, True)
    count = max(1, min(IN_GRAPH, int(GRAPH_MICROSECONDS / once)))

    def several() -> None:
        for _ in range(count):
            call()

    _, replay = device.capture(several)
    warm = device.times(replay, repeats, False)
    cold = device.times(call, repeats, True)
    return statistics.median(warm) / count, statistics.median(cold)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two results are the same, NaN and signed zero included."""
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
