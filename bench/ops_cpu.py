"""Times the CPU kernels against what this machine can do, measured in the same run.

    python bench/ops_cpu.py                       every operator below, bfloat16
    python bench/ops_cpu.py --op linear --dtype float32 --threads 2 --json out.json

An operator joins by a line in WORK and one in `measured` of v4npu/testing/cases.py. A time is printed only after the
result agreed with the reference. The share of the limit is against the slower of two floors: bytes at the read peak of
memory (weights that fit a cache may beat it), and multiply-adds at the peak of torch's own GEMM in that dtype. With
--threads 1 the clock is the thread's own, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from v4npu import _C, reference
from v4npu.testing.cases import BENCH_TOKENS, measured

Args = tuple[Any, ...]


def nbytes(*values: Any) -> int:
    return sum(v.nbytes for v in values if isinstance(v, Tensor))


def product(args: Args) -> tuple[float, float]:
    """Bytes and flops of x W^T; the last axis of x is k."""
    x, weight = args[0], next(a for a in args[1:] if isinstance(a, Tensor) and a.dtype != torch.float8_e8m0fnu)
    return nbytes(*args), 2.0 * x.numel() * weight.shape[0]


def grouped(args: Args) -> tuple[float, float]:
    return nbytes(*args), 2.0 * args[0].numel() * args[1].shape[0] / args[0].shape[1]


def experts(args: Args) -> tuple[float, float]:
    """Weights of the chosen experts only."""
    x, indices, w1 = args[0], args[1], args[3]
    share = len(indices.unique()) / len(w1)
    return nbytes(*args[:3]) + share * nbytes(*args[3:9]), 6.0 * indices.numel() * x.shape[1] * w1.shape[1]


WORK: dict[str, Callable[[Args], tuple[float, float]]] = {
    "linear": product,
    "fp8_linear": product,
    "fp4_linear": product,
    "grouped_linear": grouped,
    "moe_experts": experts,
}


def best(run: Callable[[], Any], seconds: float) -> float:
    """The shortest of the runs that fit; one at least, after one to warm up."""
    run()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    shortest, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = clock()
        run()
        shortest = min(shortest, clock() - start)
        if time.perf_counter() > end:
            return shortest


def peaks(dtype: torch.dtype, seconds: float) -> tuple[float, float]:
    """Bytes per second read from memory, and flops per second of torch's GEMM."""
    block = torch.zeros(1 << 26)
    read = block.nbytes / best(lambda: block.sum(), seconds)
    x, w = torch.ones(2048, 1024, dtype=dtype), torch.ones(4096, 1024, dtype=dtype)
    return read, 2.0 * 2048 * 1024 * 4096 / best(lambda: torch.nn.functional.linear(x, w), seconds)


def agrees(op: str, args: Args) -> bool:
    got, want = getattr(torch.ops.v4npu, op)(*args).float(), getattr(reference, op)(*args).float()
    tolerance = 2e-2 if args[0].dtype != torch.float32 else 1e-4
    return bool((got - want).abs().max() <= tolerance * want.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", choices=list(WORK), help="may be repeated; all of them without")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--isa", choices=_C.cpu_isas(), default=_C.cpu_isas()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.3, help="per measurement")
    parser.add_argument("--json", help="write the numbers here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    _C.use_cpu_isa(options.isa)

    read, flops = peaks(dtype, 1.0)
    title = f"{options.isa}, {options.threads} threads, {options.dtype}; peaks: read {read / 1e9:.1f} GB/s, "
    table = Table(title=title + f"torch GEMM {flops / 1e9:.0f} GF/s")
    for column in ("operator", "tokens", "µs", "GB/s", "GF/s", "of the limit", "torch µs"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    rows: list[dict[str, Any]] = []
    for op in options.op or WORK:
        for tokens in BENCH_TOKENS:
            args = measured(op, tokens, dtype)
            row: dict[str, Any] = {"op": op, "tokens": tokens, "ok": agrees(op, args)}
            rows.append(row)
            if not row["ok"]:
                table.add_row(op, str(tokens), "WRONG", *[""] * 4)
                continue
            moved, work = WORK[op](args)
            kernel = getattr(torch.ops.v4npu, op)
            spent = best(lambda kernel=kernel, args=args: kernel(*args), options.seconds)
            row |= {"seconds": spent, "bytes": moved, "flops": work, "limit": max(moved / read, work / flops) / spent}
            if op == "linear":
                row["torch_seconds"] = best(lambda args=args: torch.nn.functional.linear(*args[:2]), options.seconds)
            other = f"{row['torch_seconds'] * 1e6:.0f}" if "torch_seconds" in row else ""
            rates = (f"{moved / spent / 1e9:.1f}", f"{work / spent / 1e9:.0f}", f"{row['limit']:.0%}")
            table.add_row(op, str(tokens), f"{spent * 1e6:.0f}", *rates, other)
    Console().print(table)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"isa": options.isa, "threads": options.threads, "dtype": options.dtype, "read_peak": read,
                       "gemm_peak": flops, "rows": rows}, file, indent=1)  # fmt: skip
    if not all(row["ok"] for row in rows):
        raise SystemExit("an operator disagrees with its reference")


if __name__ == "__main__":
    main()
