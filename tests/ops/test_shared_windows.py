"""Queries of a sequence that attend together, to rows that are decoded once: each has the bits it has alone."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch

from v4npu.testing.attention import OPS, Shape, alone, problem
from v4npu.testing.cases import int32

# Windows of whole blocks of places, before they are full and after; an entry is complete at every fourth position.
SHAPES = [Shape((33, 0, 40), (100, 5, 290), window, 30, heads) for window, heads in ((64, 40), (128, 5), (128, 70))]


pytestmark = pytest.mark.usefixtures("isa")


def run(op: str, args: tuple[Any, ...]) -> torch.Tensor:
    return getattr(torch.ops.v4npu, op)(*args)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"window-{shape.window}-heads-{shape.heads}")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_each_as_alone(op: str, packed: bool, shape: Shape) -> None:
    args = problem(op, 80, packed, True, shape=shape)
    together = run(op, args)
    assert not together.isnan().any()
    before = [0, *accumulate(shape.lengths)]
    for b, start in enumerate(shape.starts):
        for t in range(before[b], before[b + 1]):
            position = start + t - before[b]
            assert torch.equal(run(op, alone(op, args, b, t, position)), together[t : t + 1]), (b, t)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_a_nan_stays_with_those_who_see_it(op: str, packed: bool) -> None:
    """Of rows that lie decoded side by side a query takes only its own: here all but the last two of the call."""
    shape = Shape((50,), (200,), 64, 30, 20)
    args = problem(op, 80, packed, True, shape=shape)
    clean, last = run(op, args), 47
    windows, table = args[1].clone(), args[2][0]
    per_block = windows.shape[1]
    row = shape.starts[0] + last + 1  # the first that the query after the last one sees
    spoilt = windows[int(table[row // per_block])].view(torch.uint8).flatten()
    width = 2 * 80 - 64 if packed else 2 * 80  # bytes of payload: 64 dims in FP8, 16 in bfloat16
    begin = row % per_block * width + (64 if packed else 0)
    spoilt[begin : begin + 2] = int32(0xC0, 0x7F).to(torch.uint8)  # NaN in bfloat16
    dirty = run(op, (args[0], windows, *args[2:]))
    assert torch.equal(dirty[: last + 1], clean[: last + 1]) and dirty[last + 1 :].isnan().all()
