"""The operators' parts of bench/cuda_device.py: check, invariance, time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from accelerator import Device, medians, results_of, same_bits
from torch import Tensor

from v4npu import reference
from v4npu.testing.bench import CONFIGS, OVER_PAGES, arguments, first, work
from v4npu.testing.compare import complaint, oracle_args
from v4npu.testing.cuda import FLOAT32_ON_TENSOR_CORES, TENSOR_CORE_OPS
from v4npu.testing.steps import step
from v4npu.testing.tolerances import ERROR_RATIO

# What operators over pages are given: new tokens of each sequence, and the tokens before them.
Lengths = tuple[tuple[int, ...], tuple[int, ...]]
CHECKED: dict[str, Lengths] = {
    "decode": ((1,) * 32, (8_191,) * 32),
    "long decode": ((1, 1), (65_535, 65_532)),
    "prompt": ((129,), (1_919,)),
    "ragged": ((1, 0, 7, 130, 1), (8_190, 5, 300, 0, 2_303)),
}
TIMED: dict[str, Lengths] = {
    "decode at 8K": ((1,) * 32, (8_191,) * 32),
    "decode at 64K": ((1,) * 32, (65_535,) * 32),
    "prefill to 8K": ((4_096,), (4_096,)),
    "prefill to 64K": ((4_096,), (61_440,)),
}
# The same for a dry run and for compute-sanitizer, which is slow.
SMALL_CHECKED: dict[str, Lengths] = {"decode": ((1, 1), (511, 127)), "ragged": ((1, 0, 7, 34), (126, 5, 30, 0))}
SMALL_TIMED: dict[str, Lengths] = {"decode": ((1, 1), (511, 511)), "prefill": ((16,), (112,))}
ORACLE_ON_HOST = 1e9  # flops up to which the oracle is the CPU's
KEYS = ("fp4_key", "fp8_key")  # of the indexer
COMPARED = 32  # tokens of a timed call that the oracle computes too


@dataclass
class Case:
    """One operator at one size of layer."""

    op: str
    sizes: str
    name: str
    dtype: torch.dtype
    make: Callable[[], tuple[Any, ...]]
    tokens: tuple[int, ...]  # of its calls, the longest first

    @functools.cached_property
    def args(self) -> tuple[Any, ...]:
        """Those of its longest call."""
        return self.make()

    def row(self, tokens: int) -> dict[str, Any]:
        dtype = str(self.dtype).removeprefix("torch.")
        return {"op": self.op, "sizes": self.sizes, "case": self.name, "dtype": dtype, "tokens": tokens}


def cases(ops: Sequence[str], sizes: Sequence[str], timed: bool, small: bool) -> Iterator[Case]:
    """Every case of the operators; timed ones are bfloat16."""
    paged = (SMALL_TIMED if timed else SMALL_CHECKED) if small else (TIMED if timed else CHECKED)
    rows = (16, 2, 1) if small else (4_096, 32, 1) if timed else (129, 32, 1)
    for size in sizes:
        for op in ops:
            if op in OVER_PAGES:
                for (name, (lengths, contexts)), keys in product(paged.items(), KEYS if "indexer" in op else KEYS[:1]):
                    make, total = functools.partial(step, op, lengths, contexts, CONFIGS[size], keys), sum(lengths)
                    tokens = (total, 1) if name.startswith("decode") else (total,)
                    name += ", FP8 keys" if keys == "fp8_key" else ""
                    yield Case(op, size, name, torch.bfloat16, make, tokens)
                continue
            for dtype in (torch.bfloat16,) if timed else (torch.bfloat16, torch.float32):
                make = functools.partial(arguments, op, rows[0], dtype, CONFIGS[size])
                yield Case(op, size, "rows", dtype, make, rows)


@torch.inference_mode()
def run(device: Device, op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The results of the kernel on arguments that are on the device; those that it writes are copied."""
    return device.run(op, first(op, args, len(args[0])))


@torch.inference_mode()
def compare(op: str, args: tuple[Any, ...], there: tuple[Any, ...], got: tuple[Tensor, ...]) -> str:
    """What is wrong with the results of `op` on arguments on the CPU, or `there` on the device; empty if they may
    stand.
    """
    given = there if work(op, args, got)[1] > ORACLE_ON_HOST else args
    naive = results_of(getattr(reference, op)(*first(op, given, len(args[0]))))
    oracle = results_of(getattr(reference, op)(*oracle_args(op, first(op, given, len(args[0])))))
    ratio = ERROR_RATIO[op]
    if op in TENSOR_CORE_OPS and args[0].dtype == torch.float32:
        ratio *= FLOAT32_ON_TENSOR_CORES * TENSOR_CORE_OPS[op]
    for g, n, o in zip(got, naive, oracle, strict=True):
        if found := complaint(g.cpu(), n.cpu(), o.cpu(), ratio):
            return found
    return ""


def check(device: Device, case: Case) -> Iterator[dict[str, Any]]:
    """Each call against the float64 oracle."""
    whole = device.to(case.args)
    for tokens in case.tokens:
        args, there = (first(case.op, a, tokens) for a in (case.args, whole))
        got = run(device, case.op, there)
        yield case.row(tokens) | {"status": compare(case.op, args, there, got) or "ok"}


def invariance(device: Device, case: Case) -> Iterator[dict[str, Any]]:
    """The longest call twice, and its first tokens alone: always the same bits."""
    there, most = device.to(case.args), case.tokens[0]
    whole = run(device, case.op, there)
    for tokens in dict.fromkeys((most, 1, 3, most // 2 + 1, most - 1)):
        alone = run(device, case.op, first(case.op, there, tokens)) if 0 < tokens <= most else ()
        differ = any(not same_bits(a, w[: len(a)]) for a, w in zip(alone, whole, strict=False))
        what = "two runs differ" if tokens == most else f"differs from the first of {most} tokens"
        yield case.row(tokens) | {"status": what if differ else "ok"}


@torch.inference_mode()
def timing(device: Device, case: Case, repeats: int, peaks: tuple[float, float]) -> Iterator[dict[str, Any]]:
    """Microseconds of each call, once its first tokens agree with the oracle; and the floor that the peaks make."""
    whole = device.to(case.args)
    for tokens in case.tokens:
        args, there = (first(case.op, a, tokens) for a in (case.args, whole))
        got, row = run(device, case.op, there), case.row(tokens)
        few, few_there = (first(case.op, a, min(COMPARED, tokens)) for a in (args, there))
        rows = [g[: len(r)] for g, r in zip(got, run(device, case.op, few_there), strict=True)]
        row["status"] = compare(case.op, few, few_there, tuple(rows)) or "ok"
        if row["status"] == "ok":
            moved, flops = work(case.op, args, got)
            overload = getattr(torch.ops.v4npu, case.op)
            row["warm_us"], row["cold_us"] = medians(device, functools.partial(overload, *there), repeats)
            row["floor_us"] = max(moved / peaks[0], flops / peaks[1]) * 1e6
            row["of_floor"] = row["floor_us"] / row["cold_us"]
        yield row
