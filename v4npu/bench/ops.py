"""Every operator against what this machine can do; a row has a time only if the result agreed with the reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from v4npu import _C, fallback, reference
from v4npu.bench.record import Row
from v4npu.bench.timing import Clock, Peaks, limit, stats
from v4npu.testing.bench import CONFIGS, OVER_PAGES, arguments, work

FLIPPED = 1e-5  # the share of values that sums in another order may put on the other side of a rounding to FP4
WRONG = "wrong: not what the reference computes"
Case = tuple[str, int, int]  # operator, tokens, and tokens before them


def moved(value: Any, device: torch.device | str) -> Any:
    """A tensor, or those of a tuple, on the device, pages as far apart as they were; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(moved(v, device) for v in value)
    if isinstance(value, Tensor) and not value.is_contiguous():  # .to() would close the gaps, and rows lose alignment
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device).copy_(value)
    return value.to(device) if isinstance(value, Tensor) else value


def agrees(got: Any, want: Any, dtype: torch.dtype) -> bool:
    """Whether results of a call in `dtype` are the reference's, as closely as it allows; integers and bytes exactly.

    A float32 result of a bfloat16 call has been through its roundings: one that falls the other way shows in it.
    """
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for g, w in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want)), strict=True):
        if g.dtype != w.dtype or g.shape != w.shape:
            return False
        if not g.is_floating_point() or g.itemsize == 1:
            if not torch.equal(g.view(torch.uint8), w.view(torch.uint8)):
                return False
            continue
        finite = w.isfinite()
        if not torch.equal(g[~finite], w[~finite]):
            return False
        g, w = g[finite].float(), w[finite].float()
        off = ~((g - w).abs() <= tolerance * w.abs().max()) if w.numel() else w
        if off.sum() > FLIPPED * off.numel():
            return False
    return True


@contextmanager
def configured(threads: int | None, isa: str | None) -> Iterator[None]:
    """So many threads, and the CPU kernels of an instruction set."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    if isa:
        _C.use_cpu_isa(isa)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if isa:
            _C.use_cpu_isa("")


def cases(ops: list[str], dtype: torch.dtype, tokens: Iterable[int], steps: Iterable[tuple[int, int]]) -> list[Case]:
    """Operators over pages take a step, which is tokens and where they end, and are bfloat16 alone."""
    found: list[Case] = []
    for op in ops or _C.op_names():
        if op not in OVER_PAGES:
            found += [(op, count, 0) for count in tokens]
        elif dtype == torch.bfloat16:
            found += [(op, count, end - count) for count, end in steps]
    return found


@torch.inference_mode()  # else torch's autograd calls back into Python first
def measure(clock: Clock, case: Case, dtype: torch.dtype, sizes: str, seconds: float, roof: Peaks) -> Row:
    """One row: whether the kernel agreed with the reference, and if so what it took and what that is a share of."""
    op, tokens, context = case
    args = arguments(op, tokens, dtype, CONFIGS[sizes], context)
    kernel, there = getattr(torch.ops.v4npu, op), moved(args, clock.device)
    row: Row = {"kind": "ops", "device": clock.device.type, "op": op, "sizes": sizes,
                "dtype": str(dtype).removeprefix("torch."), "tokens": tokens, "context": context}  # fmt: skip
    kept = tuple(a.clone() if isinstance(a, Tensor) else a for a in args) if op in OVER_PAGES else args
    with fallback("error"):  # the cpu is none
        try:
            got = kernel(*there)
        except RuntimeError as error:
            handed_on = 'v4npu.fallback is "error"' in str(error)  # by a launcher: C++ lets no other type through
            if not (handed_on or isinstance(error, NotImplementedError)):
                raise
            return {**row, "status": f"no kernel: {error}"}
        if not agrees(moved(got, "cpu"), getattr(reference, op)(*kept), dtype):
            return {**row, "status": WRONG}
        row["status"] = "ok"
        row["bytes"], row["flops"] = work(op, args, got)
        row |= stats(clock.samples(lambda: kernel(*there), seconds))
    row |= limit(row, roof)
    if op == "linear":
        run = torch.nn.functional.linear
        row["torch_seconds"] = stats(clock.samples(lambda: run(*there[:2]), seconds))["seconds"]
    return row
