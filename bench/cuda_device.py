"""Checks every CUDA kernel on a GPU against the float64 oracle and times what passed.

    python bench/cuda_device.py                              builds the kernels with nvcc, then every operator
    python bench/cuda_device.py --kernels DIR --op fp4_linear --tokens 1 128 --jsonl rows.jsonl

Needs torch with CUDA, a GPU, this checkout with its extension built, and nvcc unless --kernels names prebuilt files.
Sizes are those of a layer of V4-Flash, or of --sizes; operators over pages get one token of each of `tokens` sequences
behind `--context` others.
One JSON object per case goes to --jsonl as soon as it is known; a short table ends the run. A time stands only beside a
result that passed its check and had the same bits twice; an operator that would fall back to the reference fails.
Without a device nothing is run, every row says so, and the exit code is 2; it is 1 when a check failed.

Times are medians of single calls between CUDA events, launcher included: "warm" right after the same call, "cold" after
a write that is larger than any second-level cache. GB/s counts tensors read and written once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4npu import fallback, reference
from v4npu.model.config import Config
from v4npu.testing.bench import CONFIGS
from v4npu.testing.bench import arguments as layer
from v4npu.testing.compare import complaint, oracle_args
from v4npu.testing.cuda import BFLOAT16_ONLY, BORROWED, FLOAT32_ON_TENSOR_CORES, TENSOR_CORE_OPS, kernel_sources, script
from v4npu.testing.steps import OPS as OVER_PAGES
from v4npu.testing.steps import step
from v4npu.testing.tolerances import ERROR_RATIO

ROOT = Path(__file__).parents[1]
NOT_RUN = "not run on a device"
CONTEXTS = (8_191, 65_535)  # of a decode step: what operators over pages are given
COLD_BYTES = 256 << 20
Run = Callable[[str, tuple[Any, ...]], tuple[Tensor, ...]]


@dataclass
class Row:
    """One case: what became of it, and its times in microseconds if it passed."""

    op: str
    tokens: int
    context: int  # of each token, which is then a sequence's; 0 where the operator knows none
    dtype: str
    status: str  # "ok", NOT_RUN, or what was wrong
    device: str = ""
    warm_us: float | None = None
    cold_us: float | None = None
    gbytes_per_s: float | None = None


def cases(
    ops: Sequence[str], tokens: Sequence[int], contexts: Sequence[int] = CONTEXTS
) -> Iterator[tuple[str, int, int, torch.dtype]]:
    """Every case of the operators named, all that have a kernel if none is: operator, tokens, context, dtype."""
    for op in ops or kernel_sources():
        if op in OVER_PAGES:
            yield from ((op, count, context, torch.bfloat16) for context in contexts for count in tokens)
            continue
        for dtype in (torch.bfloat16, torch.float32):
            if op not in BFLOAT16_ONLY or dtype == torch.bfloat16:
                yield from ((op, count, 0, dtype) for count in tokens)


def arguments(op: str, tokens: int, context: int, dtype: torch.dtype, config: Config) -> tuple[Any, ...]:
    """Arguments on the CPU: a decode step of `tokens` sequences, or `tokens` rows of a layer."""
    return step(op, tokens, 1, context, config) if op in OVER_PAGES else layer(op, tokens, dtype, config)


def _results(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def check(op: str, args: tuple[Any, ...], run: Run) -> str:
    """Empty if `run` computes `op` within its error ratio and twice the same; else what is wrong."""
    naive = _results(getattr(reference, op)(*args))
    oracle = _results(getattr(reference, op)(*oracle_args(op, args)))
    ratio = ERROR_RATIO[op]
    if op in TENSOR_CORE_OPS and any(isinstance(a, Tensor) and a.dtype == torch.float32 for a in args[:1]):
        ratio *= FLOAT32_ON_TENSOR_CORES
    got, again = run(op, args), run(op, args)
    for g, a, n, o in zip(got, again, naive, oracle, strict=True):
        if found := complaint(g.cpu(), n, o, ratio):
            return found
        if not torch.equal(g.cpu().contiguous().view(torch.uint8), a.cpu().contiguous().view(torch.uint8)):
            return "two runs differ"
    return ""


def nbytes(values: Sequence[Any]) -> int:
    """Bytes of the tensors among `values`."""
    return sum(v.nbytes for v in values if isinstance(v, Tensor))


def medians(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Warm and cold microseconds of `call` on the current device."""
    flush = torch.empty(COLD_BYTES, dtype=torch.uint8, device="cuda")
    for _ in range(3):
        call()
    found = []
    for cold in (False, True):
        times = []
        for _ in range(repeats):
            if cold:
                flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
        found.append(statistics.median(times))
    return found[0], found[1]


def measure(op: str, tokens: int, context: int, dtype: torch.dtype, repeats: int, config: Config) -> Row:
    """Checks and times one case on the GPU."""
    row = Row(op, tokens, context, str(dtype).removeprefix("torch."), "ok", torch.cuda.get_device_name())
    args = arguments(op, tokens, context, dtype, config)
    overload = getattr(torch.ops.v4npu, op)

    def run(_: str, given: tuple[Any, ...]) -> tuple[Tensor, ...]:
        return _results(overload(*(a.cuda() if isinstance(a, Tensor) else a for a in given)))

    try:
        with fallback("error"):
            row.status = check(op, args, run) or "ok"
    except RuntimeError as error:
        row.status = f"failed: {error}"
    if row.status == "ok":
        there = tuple(a.cuda() if isinstance(a, Tensor) else a for a in args)
        row.warm_us, row.cold_us = medians(lambda: overload(*there), repeats)
        row.gbytes_per_s = (nbytes(there) + nbytes(_results(overload(*there)))) / row.cold_us / 1e3
    return row


def table(rows: Sequence[Row]) -> str:
    """The rows for a person."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    lines = [
        f"{'operator':16} {'tokens':>6} {'context':>7} {'dtype':9} {'warm us':>9} {'cold us':>9} {'GB/s':>8}  status"
    ]
    for r in rows:
        times = (number(r.warm_us), number(r.cold_us), number(r.gbytes_per_s))
        lines.append(
            f"{r.op:16} {r.tokens:6} {r.context:7} {r.dtype:9} {times[0]:>9} {times[1]:>9} {times[2]:>8}  {r.status}"
        )
    return "\n".join(lines)


def build_kernels(ops: Sequence[str]) -> Path:
    """Fatbins of the kernels in build/cuda, by nvcc."""
    needed = {name for op in ops for name in (op, *BORROWED.get(op, ()))}
    script("backends/cuda/build.py").build(ROOT / "build/cuda", sorted(needed))
    return ROOT / "build/cuda"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", nargs="+", default=[], choices=sorted(kernel_sources()))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 32, 512])
    parser.add_argument("--sizes", choices=list(CONFIGS), default="flash", help="whose layers")
    parser.add_argument("--context", nargs="+", type=int, default=CONTEXTS, help="of operators over pages")
    parser.add_argument("--kernels", type=Path, help="folder of prebuilt fatbins; otherwise nvcc builds them")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--jsonl", type=Path)
    args = parser.parse_args(argv)
    present = torch.cuda.is_available()
    if present:
        os.environ["V4NPU_CUDA_KERNELS"] = str(args.kernels or build_kernels(args.op))
    rows = []
    with open(args.jsonl or os.devnull, "w") as out:
        for op, tokens, context, dtype in cases(args.op, args.tokens, args.context):
            row = Row(op, tokens, context, str(dtype).removeprefix("torch."), NOT_RUN)
            if present:
                row = measure(op, tokens, context, dtype, args.repeats, CONFIGS[args.sizes])
            rows.append(row)
            print(json.dumps(asdict(row)), file=out, flush=True)
    print(table(rows))
    if not present:
        print(f"\nno CUDA device is present: nothing was run, all {len(rows)} rows say {NOT_RUN!r}", file=sys.stderr)
        return 2
    return int(any(row.status != "ok" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
