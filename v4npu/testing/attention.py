"""Ragged problems for the attentions, as the tests of several backends call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from v4npu.reference.qkv_prepare import round_kv
from v4npu.testing.cases import Draw, int32
from v4npu.testing.paging import paged

OPS = ("window_attention", "csa_attention", "hca_attention")
RATIO = 4
CU_SEQLENS = {"window_attention": 3, "hca_attention": 5, "csa_attention": 6}  # where the argument stands


@dataclass(frozen=True)
class Shape:
    lengths: tuple[int, ...] = (3, 0, 1)  # of three sequences, one without tokens
    starts: tuple[int, ...] = (150, 5, 290)  # lists of up to 142 places
    window: int = 70
    topk: int = 30
    heads: int = 20
    rope: int = 16  # dims of a row that are not quantised


SMALL = Shape()


def problem(
    op: str, dim: int, packed: bool, official: bool, rounded: bool = False, shape: Shape = SMALL,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Any, ...]:  # fmt: skip
    """Arguments of `op`; `rounded`: plain rows, with the values that packed ones have."""
    draw, tokens = Draw(dtype, dim), sum(shape.lengths)
    ends = [n + s for n, s in zip(shape.lengths, shape.starts, strict=True)]
    kv = [draw.normal(n, dim) for n in ends] + [draw.normal(n // RATIO, dim) for n in ends]
    kv = [round_kv(rows, shape.rope) for rows in kv] if packed or rounded else kv
    picks = draw.distinct(shape.starts[0] // RATIO, tokens, shape.topk)
    picks[:, ::7] = -1
    where = (int32(0, *torch.tensor(shape.lengths).cumsum(0).tolist()), int32(*shape.starts))
    kind, count = "fp8_kv" if packed else "plain", len(ends)
    entries = () if op == "window_attention" else paged(kv[count:], 3, kind, shape.rope)
    listed = (picks,) if op == "csa_attention" else ()
    ratio = (RATIO,) if op == "hca_attention" else ()
    sink, scale = draw.normal(shape.heads, dtype=torch.float32), dim**-0.5
    q, windows = draw.normal(tokens, shape.heads, dim), paged(kv[:count], 8, kind, shape.rope)
    return (q, *windows, *entries, *listed, *where, sink, scale, shape.window, *ratio, shape.rope, official)


def alone(op: str, args: tuple[Any, ...], b: int, t: int, position: int) -> tuple[Any, ...]:
    """The arguments of token t of sequence b in a call of its own."""
    one, at = list(args), CU_SEQLENS[op]
    for i in (2,) if op == "window_attention" else (2, 4):
        one[i] = args[i][b : b + 1]
    for i in (0, 5) if op == "csa_attention" else (0,):
        one[i] = args[i][t : t + 1]
    one[at], one[at + 1] = int32(0, 1), int32(position)
    return tuple(one)
