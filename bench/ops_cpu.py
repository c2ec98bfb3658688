#!/usr/bin/env python3
"""Times every CPU kernel against what this machine can do, measured in the same run.

    python bench/ops_cpu.py                       every operator at the sizes of a V4-Flash layer, bfloat16
    python bench/ops_cpu.py --op linear --dtype float32 --threads 2 --json rows.jsonl
    python bench/ops_cpu.py --sizes small         those of bench/model.py's checkpoint

Operators over pages get a token, and a chunk, of one sequence; "behind" says of how many others. A time is printed only
after the result agreed with the reference. "of the limit" is against the slower of two floors: bytes, each row that is
needed read once, at the read peak of memory (what fits a cache may beat it), and multiply-adds at the peak of torch's
own GEMM in that dtype or in float32. Each time is the best that fits --seconds; with --threads 1 the clock is the
thread's own, which a busy machine disturbs least.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from v4npu import _C, reference
from v4npu.testing.bench import CONFIGS, OVER_PAGES, STEPS, TOKENS, arguments, work

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
FLIPPED = 1e-5  # the share of values that sums in another order may put on the other side of a rounding to FP4


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
    """Bytes per second read from memory, and flops per second of torch's GEMM, in float32 where that is faster."""
    block = torch.zeros(1 << 26)
    read = block.nbytes / best(lambda: block.sum(), seconds)
    took = []
    for t in {dtype, torch.float32}:
        x, w = torch.ones(2048, 1024, dtype=t), torch.ones(4096, 1024, dtype=t)
        took.append(best(lambda x=x, w=w: torch.nn.functional.linear(x, w), seconds))
    return read, 2.0 * 2048 * 1024 * 4096 / min(took)


def agrees(got: Any, want: Any) -> bool:
    """Whether results are those of the reference, as closely as their dtype allows; integers and bytes exactly."""
    for g, w in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want)), strict=True):
        if not g.is_floating_point() or g.itemsize == 1:
            if not torch.equal(g.view(torch.uint8), w.view(torch.uint8)):
                return False
            continue
        tolerance = 1e-4 if g.dtype == torch.float32 else 2e-2
        finite = w.isfinite()
        if not torch.equal(g[~finite], w[~finite]):
            return False
        g, w = g[finite].float(), w[finite].float()
        off = (g - w).abs() > tolerance * w.abs().max() if w.numel() else w
        if off.sum() > FLIPPED * off.numel():
            return False
    return True


def cases(ops: list[str], dtype: torch.dtype) -> Iterator[tuple[str, int, int]]:
    """Operator, tokens, and tokens before them."""
    for op in ops or _C.op_names():
        if op not in OVER_PAGES:
            yield from ((op, tokens, 0) for tokens in TOKENS)
        elif dtype == torch.bfloat16:
            yield from ((op, tokens, end - tokens) for tokens, end in STEPS)


@torch.inference_mode()  # else torch's autograd calls back into Python first
def measure(op: str, tokens: int, behind: int, dtype: torch.dtype, sizes: str, seconds: float) -> dict[str, Any]:
    """One row: whether the kernel agreed with the reference, and if so what it took and what that is a share of."""
    args = arguments(op, tokens, dtype, CONFIGS[sizes], behind)
    kernel = getattr(torch.ops.v4npu, op)
    row: dict[str, Any] = {"op": op, "tokens": tokens, "behind": behind, "ok": False}
    kept = tuple(a.clone() if isinstance(a, Tensor) else a for a in args) if op in OVER_PAGES else args
    got = kernel(*args)
    row["ok"] = agrees(got, getattr(reference, op)(*kept))
    if row["ok"]:
        row["bytes"], row["flops"] = work(op, args, got)
        row["seconds"] = best(lambda: kernel(*args), seconds)
        if op == "linear":
            row["torch_seconds"] = best(lambda: torch.nn.functional.linear(*args[:2]), seconds)
    return row


def show(rows: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title)
    for column in ("operator", "tokens", "behind", "µs", "GB/s", "GF/s", "of the limit", "torch µs"):
        table.add_column(column, justify="left" if column == "operator" else "right", no_wrap=True)
    for row in rows:
        cells = [row["op"], str(row["tokens"]), f"{row['behind']:,}" if row["behind"] else ""]
        if row["ok"]:
            spent = row["seconds"]
            cells += [f"{spent * 1e6:,.0f}", f"{row['bytes'] / spent / 1e9:.1f}", f"{row['flops'] / spent / 1e9:.0f}"]
            cells += [f"{row['limit']:.0%}", f"{row['torch_seconds'] * 1e6:,.0f}" if "torch_seconds" in row else ""]
        else:
            cells += ["WRONG"]
        table.add_row(*cells)
    Console().print(table)


@app.command()
def run(
    op: Annotated[list[str] | None, typer.Option(help="May be repeated; every operator without.")] = None,
    sizes: Annotated[str, typer.Option(help="Whose layer: " + ", ".join(CONFIGS) + ".")] = "flash",
    dtype: Annotated[str, typer.Option(help="bfloat16, or float32 (operators over pages are left out).")] = "bfloat16",
    isa: Annotated[str, typer.Option(help="Of the kernels: " + ", ".join(_C.cpu_isas()) + ".")] = _C.cpu_isas()[0],
    threads: Annotated[int, typer.Option(help="Threads.")] = torch.get_num_threads(),
    seconds: Annotated[float, typer.Option(help="Per measurement.")] = 0.3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write one JSON object per row here too.")] = None,
) -> None:
    """Measure."""
    for name, value, known in (("--sizes", sizes, CONFIGS), ("--isa", isa, _C.cpu_isas()),
                               ("--dtype", dtype, ("bfloat16", "float32"))):  # fmt: skip
        if value not in known:
            raise typer.BadParameter(f"{name} {value!r} is none of {', '.join(known)}")
    if unknown := set(op or ()) - set(_C.op_names()):
        raise typer.BadParameter(f"--op {unknown.pop()!r} is none of {', '.join(_C.op_names())}")
    torch.set_num_threads(threads)
    _C.use_cpu_isa(isa)
    torch_dtype = getattr(torch, dtype)
    read, flops = peaks(torch_dtype, 1.0)
    where = {"isa": isa, "threads": threads, "dtype": dtype, "sizes": sizes, "read_peak": read, "gemm_peak": flops}
    rows = []
    for case in track(list(cases(op or [], torch_dtype)), "operators", console=Console(stderr=True)):
        row = measure(*case, torch_dtype, sizes, seconds)
        if row["ok"]:
            row["limit"] = max(row["bytes"] / read, row["flops"] / flops) / row["seconds"]
        rows.append(row)
    title = f"{isa}, {threads} threads, {dtype}, {sizes}; read {read / 1e9:.1f} GB/s, torch GEMM {flops / 1e9:.0f} GF/s"
    show(rows, title)
    if json_file:
        json_file.write_text("".join(json.dumps({**row, **where}) + "\n" for row in rows))
    if wrong := sorted({row["op"] for row in rows if not row["ok"]}):
        raise SystemExit(f"not what the reference computes: {', '.join(wrong)}")


if __name__ == "__main__":
    app()
