"""A step of V4 as the operators over pages see it: decode of many sequences, or a chunk of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from v4npu import _C
from v4npu.model.config import Config
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.cases import Draw

BLOCK_TOKENS = 128
POOL_BYTES = 4 << 30  # beyond that sequences share pages
CSA, HCA = 4, 128  # tokens to an entry


def _pages(draw: Draw, kind: str, dim: int, rope: int, rows: int, sequences: int, each: int) -> tuple[Tensor, Tensor]:
    """Packed pages of `rows` rows of small numbers, and a table with `each` pages of each sequence, in any order."""
    fmt = _C.row_format(kind, dim, rope, 2)
    count = min(sequences * each, POOL_BYTES // fmt.page(rows)) or 1
    pool = torch.zeros(count, fmt.page(rows), dtype=torch.uint8)
    cache = pool[:, : rows * fmt.row].unflatten(1, (rows, fmt.row))
    payloads = pool[:, : rows * fmt.payload].unflatten(1, (rows, fmt.payload))
    scales = pool[:, rows * fmt.payload : rows * fmt.row]
    if kind == "fp8_kv":
        keep = dim - rope
        payloads[..., :keep] = draw.integers(0x60, count, rows, keep, dtype=torch.uint8)  # e4m3 of 0 to 26
        payloads[..., :keep] |= draw.integers(2, count, rows, keep, dtype=torch.uint8) << 7
        payloads[..., keep:].view(torch.bfloat16)[:] = draw.normal(count, rows, rope, dtype=torch.bfloat16)
        scales[:] = 127 - 4
    elif kind == "fp8_key":
        payloads[:] = 0x30 + draw.integers(16, count, rows, dim, dtype=torch.uint8)  # e4m3, sixteenths of 0.5 to 1.9
        payloads |= draw.integers(2, count, rows, dim, dtype=torch.uint8) << 7
        scales.unflatten(1, (rows, 4))[:] = torch.ones(1).view(torch.uint8)
    else:
        payloads[:] = draw.integers(256, count, rows, fmt.payload, dtype=torch.uint8)  # e2m1: sums are exact
        scales[:] = 127
    order = torch.randperm(sequences * each, generator=draw.generator) % count
    return cache, order.int().view(sequences, each)


OPS = ("qkv_prepare", "compressor", "indexer_scores", "indexer_topk",
       "window_attention", "csa_attention", "hca_attention")  # fmt: skip


def step(
    op: str, lengths: Sequence[int], contexts: Sequence[int], config: Config, keys: str = "fp4_key"
) -> tuple[Any, ...]:
    """Positional arguments of `op`, official, in bfloat16: so many tokens of each sequence, behind so many others.

    What the indexer reads are small numbers, whose sums are exact: then picks must be equal, ties included.

    Args:
        op: one of OPS.
        keys: the format of index keys.
    """
    draw, total, count = Draw(torch.bfloat16, sum(contexts)), sum(lengths), len(lengths)
    spans = [(start, start + n) for start, n in zip(contexts, lengths, strict=True)]
    heads, dim, rope = config.num_attention_heads, config.head_dim, config.qk_rope_head_dim
    index_heads, index_dim, window = config.index_n_heads, config.index_head_dim, config.sliding_window
    used = [-(-end // BLOCK_TOKENS) for _, end in spans]
    blocks, freqs = max(used), rope_frequencies(rope, config.compress_rope_theta)
    where = (torch.tensor([0, *lengths]).cumsum(0).int(), torch.tensor(contexts).int())
    positions = torch.cat([torch.arange(*span) for span in spans])

    def windows() -> tuple[Tensor, Tensor]:
        first = [max(start - window + 1, 0) // BLOCK_TOKENS for start in contexts]
        held = [n - at for n, at in zip(used, first, strict=True)]
        cache, table = _pages(draw, "fp8_kv", dim, rope, BLOCK_TOKENS, count, max(held))
        wide = torch.full((count, blocks), -1, dtype=torch.int32)
        for b, (at, n) in enumerate(zip(first, held, strict=True)):
            wide[b, at : at + n] = table[b, :n]
        return cache, wide

    def entries(ratio: int) -> tuple[Tensor, Tensor]:
        return _pages(draw, "fp8_kv", dim, rope, BLOCK_TOKENS // ratio, count, blocks)

    def attention(ratio: int) -> tuple[Any, ...]:
        paged: tuple[Tensor, ...] = windows()
        q, listed = draw.normal(total, heads, dim), []
        if ratio:
            paged += entries(ratio)
        if ratio == CSA:
            listed = [torch.full((total, config.index_topk), -1, dtype=torch.int32)]
            for start, rows in zip(contexts, listed[0].split(list(lengths)), strict=True):
                picks = draw.distinct((start + 1) // CSA, len(rows), config.index_topk)
                rows[:, : picks.shape[1]] = picks
        tail = (draw.normal(heads, dtype=torch.float32), dim**-0.5, window, *((ratio,) if ratio == HCA else ()))
        return (q, *paged, *listed, *where, *tail, rope, True, positions, freqs)

    def indexer(*topk: int) -> tuple[Any, ...]:
        q, weights = ((draw.integers(5, total, index_heads, *d) - 2).bfloat16() for d in ((index_dim,), ()))
        cached = _pages(draw, keys, index_dim, 0, BLOCK_TOKENS // CSA, count, blocks)
        return (q, weights, *cached, *where, CSA, *topk, True)

    def compressor(ratio: int) -> tuple[Any, ...]:
        cols, ring = dim * (2 if ratio == CSA else 1), ratio * (2 if ratio == CSA else 1) + _C.KEEP_TOKENS
        rows = [draw.normal(n, cols, dtype=torch.float32) for n in (total, total, ratio)]
        state = draw.normal(count, 2, ring, cols, dtype=torch.float32)
        done = sum(end // ratio - start // ratio for start, end in spans)
        cache, _ = entries(ratio)
        sequence = (*where, state, torch.arange(count).int(), ratio, ratio == CSA, 1e-6, "fp8", done)
        return (*rows, draw.normal(dim), freqs, *sequence, torch.bfloat16, cache, torch.arange(done))

    def prepare() -> tuple[Any, ...]:
        cache, _ = _pages(draw, "fp8_kv", dim, rope, BLOCK_TOKENS, 1, -(-total // BLOCK_TOKENS))
        q, kv = draw.normal(total, heads, dim), draw.normal(total, dim)
        return (q, kv, draw.normal(dim), positions, freqs, 1e-6, True, cache, torch.arange(total))

    cases: dict[str, Any] = {
        "window_attention": lambda: attention(0),
        "csa_attention": lambda: attention(CSA),
        "hca_attention": lambda: attention(HCA),
        "indexer_scores": indexer,
        "indexer_topk": lambda: indexer(config.index_topk),
        "compressor": lambda: compressor(CSA),
        "qkv_prepare": prepare,
    }
    return cases[op]()
