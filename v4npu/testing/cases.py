"""Small valid arguments for every operator, as the tests and benchmarks call it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from v4npu.reference.formats import quantise_weight_fp4, quantise_weight_fp8
from v4npu.reference.rope import rope_frequencies

PERIOD = 16_777_213  # a prime: what a large tensor repeats falls on another column in every row


class Draw:
    """Random tensors of one dtype from one seed. Large ones repeat after PERIOD values, or drawing takes longest."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        count = math.prod(shape)
        drawn = torch.randn(min(count, PERIOD), generator=self.generator, dtype=torch.float64)
        return _repeated(drawn.to(dtype or self.dtype), count).view(shape)

    def integers(self, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        count = math.prod(shape)
        return _repeated(torch.randint(high, (min(count, PERIOD),), generator=self.generator).to(dtype), count).view(
            shape
        )

    def distinct(self, high: int, rows: int, count: int) -> Tensor:
        """int32 [rows, count]: different numbers below `high` in every row."""
        return torch.rand(rows, high, generator=self.generator).argsort(-1)[:, :count].int()


def _repeated(values: Tensor, count: int) -> Tensor:
    return values if len(values) == count else values.repeat(-(-count // len(values)))[:count]


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def arguments(op: str, dtype: torch.dtype = torch.float32, seed: int = 0, official: bool = False) -> tuple[Any, ...]:
    """Positional arguments of `op`: two sequences of 7 and 5 new tokens after 9 and 0 earlier ones."""
    draw = Draw(dtype, seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tokens, d, heads, head_dim, rope_dim, m = 12, 64, 3, 80, 16, 4
    cu, start = int32(0, 7, 12), int32(9, 0)
    positions = torch.tensor([*range(9, 16), *range(5)])
    freqs = rope_frequencies(rope_dim, 10000.0)
    x = draw.normal(tokens, d)
    q = draw.normal(tokens, heads, head_dim)
    streams = draw.normal(tokens, m, d)
    window_kv, window_table = draw.normal(5, 8, head_dim), int32(3, 0, 1, -1).view(2, 2)
    pages, table = draw.normal(3, 2, head_dim), int32(2, 0, 1, 1).view(2, 2)
    sink = draw.normal(heads, dtype=wide)
    where, windows = (cu, start, sink, head_dim**-0.5, 8), (window_kv, window_table)

    def mixes(rows: int, scales: int) -> tuple[Tensor, ...]:
        fn, scale = draw.normal(rows, m * d, dtype=wide) * 0.1, draw.normal(scales, dtype=wide)
        return fn, scale, draw.normal(rows, dtype=wide)

    index_q, keys = draw.normal(tokens, 3, 32), draw.normal(3, 2, 32)
    index_args = (index_q, draw.normal(tokens, 3), keys, table, cu, start, 4)
    gate_weight = draw.normal(6, d)
    experts, width = 5, 32
    w1, w3, w2 = (
        draw.normal(experts, width, d),
        draw.normal(experts, width, d),
        draw.normal(experts, d, width),
    )
    cases: dict[str, Any] = {
        "rms_norm": lambda: (x, draw.normal(d), 1e-6),
        "rope": lambda: (q, positions, freqs, True),
        "hadamard": lambda: (x,),
        "act_quant": lambda: (x, 32),
        "fp4_act_quant": lambda: (x, 32),
        "linear": lambda: (x, draw.normal(48, d), dtype),
        "fp8_linear": lambda: (x, None, *quantise_weight_fp8(draw.normal(48, d)), dtype),
        "fp4_linear": lambda: (x, None, *quantise_weight_fp4(draw.normal(48, d)), dtype),
        "grouped_linear": lambda: (draw.normal(tokens, 2, 32), draw.normal(2 * 24, 32), None),
        "hc_pre": lambda: (streams, *mixes((2 + m) * m, 3), 1e-6, 1e-6, 20),
        "hc_post": lambda: (x, streams, draw.normal(tokens, m, dtype=wide), draw.normal(tokens, m, m, dtype=wide)),
        "hc_head": lambda: (streams, *mixes(m, 1), 1e-6, 1e-6),
        "qkv_prepare": lambda: (
            q, draw.normal(tokens, head_dim), draw.normal(head_dim), positions, freqs, 1e-6, official,
        ),
        "compressor": lambda: (
            draw.normal(tokens, 64, dtype=wide), draw.normal(tokens, 64, dtype=wide), draw.normal(4, 64, dtype=wide),
            draw.normal(32), freqs, cu, start, draw.normal(3, 2, 16, 64, dtype=wide), int32(2, 0), 4, True, 1e-6,
            "hadamard_fp4" if official else "none", 3, dtype,
        ),
        "indexer_query": lambda: (index_q, positions, freqs, official),
        "indexer_scores": lambda: (*index_args, official),
        "indexer_topk": lambda: (*index_args, 3, official),
        "window_attention": lambda: (q, *windows, *where, rope_dim, official, positions, freqs),
        "csa_attention": lambda: (
            q, *windows, pages, table, draw.distinct(5, tokens, 3) - 1, *where, rope_dim, official, positions, freqs,
        ),
        "hca_attention": lambda: (q, *windows, pages, table, *where, 4, rope_dim, official, positions, freqs),
        "gate": lambda: (x, gate_weight, draw.normal(6, dtype=wide), 2, 1.5),
        "hash_gate": lambda: (x, gate_weight, draw.integers(6, 20, 2), draw.integers(20, tokens), 1.5),
        "swiglu": lambda: (x, draw.normal(tokens, d), draw.normal(tokens, dtype=wide), 0.5),
        "moe_experts": lambda: (
            x, draw.integers(experts, tokens, 2, dtype=torch.int32), draw.normal(tokens, 2, dtype=wide),
            w1, None, w3, None, w2, None, 0.5, official, draw.normal(tokens, d),
        ),
    }  # fmt: skip
    return cases[op]()


# (rows, width): none, one, fewer than a vector, every kind of tail, and enough rows for several threads.
SIZES = ((0, 16), (1, 2), (3, 14), (5, 16), (7, 34), (3, 64), (11, 126), (2, 1000), (67, 1500))


SEQUENCED = (
    "compressor",
    "indexer_scores",
    "indexer_topk",
    "window_attention",
    "csa_attention",
    "hca_attention",
)


def _sized_paged(op: str, rows: int, width: int, dtype: torch.dtype, draw: Draw, freqs: Tensor) -> tuple[Any, ...]:
    """`sized` of the operators over pages."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = 5 + rows
    entries = tokens // 4
    q, sink = draw.normal(rows, 3, width), draw.normal(3, dtype=wide)
    windows = (
        draw.normal(tokens // 8 + 1, 8, width),
        torch.randperm(tokens // 8 + 1, generator=draw.generator).int()[None],
    )
    pages, table = draw.normal(entries // 2 + 1, 2, width), torch.arange(entries // 2, -1, -1).int()[None]
    where = (int32(0, rows), int32(5), sink, width**-0.5, 8)

    def index_args(blocks: int, start: int) -> tuple[Any, ...]:
        shapes = ((rows, 4, width), (rows, 4), (blocks, 2, width))
        integers = [(draw.integers(5, *shape) - 2).to(dtype) for shape in shapes]
        return (*integers, torch.arange(blocks).int()[None], int32(0, rows), int32(start), 4)

    cases: dict[str, Any] = {
        "qkv_prepare": lambda: (
            draw.normal(rows, 3, width), draw.normal(rows, width), draw.normal(width), draw.integers(1 << 20, rows),
            freqs, 1e-6, False,
        ),
        "compressor": lambda: (
            draw.normal(rows, 2 * width, dtype=wide), draw.normal(rows, 2 * width, dtype=wide),
            draw.normal(4, 2 * width, dtype=wide), draw.normal(width), freqs, int32(0, rows), int32(0), None, None, 4,
            True, 1e-6, "none", rows // 4, dtype,
        ),
        "indexer_scores": lambda: (*index_args(9, 71), False),  # all 18 visible
        "indexer_topk": lambda: (*index_args(entries // 2 + 1, 5), 9, False),
        "window_attention": lambda: (q, *windows, *where, 0, False),
        "csa_attention": lambda: (
            q, *windows, pages, table, draw.distinct(entries + 1, rows, 6) - 1, *where, 0, False,
        ),
        "hca_attention": lambda: (q, *windows, pages, table, *where, 4, 0, False),
    }  # fmt: skip
    return cases[op]()


def sized(op: str, rows: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Any, ...]:
    """Positional arguments of `op` at a size of SIZES: the tensors whose first axis is `rows` belong to the rows.

    Operators of SEQUENCED take the rows as the tokens of one sequence after 5 earlier ones. What the indexer reads are
    small integers, whose sums are exact: then picks must be equal, ties included.
    """
    draw = Draw(dtype, seed)
    freqs = rope_frequencies(min(width, 64) // 4 * 2, 10000.0)  # about half of a narrow head turns
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if op == "qkv_prepare" or op in SEQUENCED:
        return _sized_paged(op, rows, width, dtype, draw, freqs)
    power = min(1 << width.bit_length() - 1, 128)
    m = (4, 3, 5)[width % 3]  # 4 has a path of its own

    def mixes(count: int, scales: int) -> tuple[Tensor, ...]:
        fn, scale = draw.normal(count, m * width, dtype=wide) * 0.1, draw.normal(scales, dtype=wide)
        return draw.normal(rows, m, width), fn, scale, draw.normal(count, dtype=wide)

    fp4 = -(-width // 32) * 32
    cases: dict[str, Any] = {
        "rms_norm": lambda: (draw.normal(rows, width), draw.normal(width), 1e-6),
        "rope": lambda: (draw.normal(rows, 3, width), draw.integers(1 << 20, rows), freqs, False),
        "linear": lambda: (draw.normal(rows, width), draw.normal(45, width), dtype),
        "fp8_linear": lambda: (draw.normal(rows, width), None, *quantise_weight_fp8(draw.normal(141, width)), dtype),
        "fp4_linear": lambda: (
            draw.normal(rows, fp4), None, *quantise_weight_fp4(draw.normal(37, fp4)), dtype,
        ),
        "grouped_linear": lambda: (
            draw.normal(rows, 3, width), *quantise_weight_fp8(draw.normal(3 * 47, width)),
        ),
        "swiglu": lambda: (draw.normal(rows, width), draw.normal(rows, width), draw.normal(rows, dtype=wide), 1.0),
        "hadamard": lambda: (draw.normal(rows, 1 << width.bit_length() - 1),),
        "act_quant": lambda: (draw.normal(rows, width), 128),
        "fp4_act_quant": lambda: (draw.normal(rows, width), 32),
        "hc_pre": lambda: (*mixes((2 + m) * m, 3), 1e-6, 1e-6, 20),
        "hc_post": lambda: (
            draw.normal(rows, width), draw.normal(rows, m, width), draw.normal(rows, m, dtype=wide),
            draw.normal(rows, m, m, dtype=wide),
        ),
        "hc_head": lambda: (*mixes(m, 1), 1e-6, 1e-6),
        "indexer_query": lambda: (
            draw.normal(rows, 3, power), draw.integers(1 << 20, rows), rope_frequencies(power // 2, 10000.0), True,
        ),
        "gate": lambda: (draw.normal(rows, width), draw.normal(21, width), draw.normal(21, dtype=wide), 6, 1.5),
        "hash_gate": lambda: (
            draw.normal(rows, width), draw.normal(21, width), draw.integers(21, 40, 9), draw.integers(40, rows), 1.5,
        ),
        "moe_experts": lambda: (
            draw.normal(rows, fp4), draw.integers(6, rows, 3, dtype=torch.int32), draw.normal(rows, 3, dtype=wide),
            *quantise_weight_fp4(draw.normal(7, 96, fp4)), *quantise_weight_fp4(draw.normal(7, 96, fp4)),
            *quantise_weight_fp4(draw.normal(7, fp4, 96)), 10.0, False,
        ),
    }  # fmt: skip
    return cases[op]()


def experts_problem(
    tokens: int, experts: int, kind: str, topk: int = 3, d: int = 96, width: int = 160,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Any, ...]:  # fmt: skip
    """Of moe_experts: x, indices, weights and the three matrices with their scales; fp8, fp4 or of the dtype of x."""
    draw = Draw(torch.float32, tokens + experts)
    quantise = {"fp8": quantise_weight_fp8, "fp4": quantise_weight_fp4}.get(kind, lambda w: (w.to(dtype), None))

    def matrix(rows: int, k: int) -> tuple[Tensor, Tensor | None]:
        return quantise(draw.normal(experts, rows, k) * k**-0.5)

    indices = draw.distinct(experts, tokens, topk)
    weights = draw.normal(tokens, topk).abs()
    return (draw.normal(tokens, d).to(dtype), indices, weights, *matrix(width, d), *matrix(width, d), *matrix(d, width))


def as_halves(w1: Tensor, w3: Tensor) -> tuple[Tensor, Tensor]:
    """w1 and w3 [E, I, d] as the halves of one tensor [E, 2, I, d], as transformers keeps them."""
    both = torch.stack([w1.view(torch.uint8), w3.view(torch.uint8)], dim=1).view(w1.dtype)
    return both[:, 0], both[:, 1]
