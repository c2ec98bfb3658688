"""Reference of indexer_query, indexer_scores and indexer_topk."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import round_fp4, wide
from v4npu.reference.gate import top_indices
from v4npu.reference.hadamard import hadamard
from v4npu.reference.pages import read_keys, slots
from v4npu.reference.rope import rope
from v4npu.reference.sequences import sequences

CHUNK_ELEMENTS = 1 << 25  # bound on [queries, heads, entries] held at once


def indexer_query(q: Tensor, positions: Tensor, freqs: Tensor, official: bool) -> Tensor:
    """See v4npu.ops.indexer_query."""
    q = rope(q, positions, freqs)
    return round_fp4(hadamard(q)) if official else q


def _chunk_scores(q: Tensor, weights: Tensor, keys: Tensor, first: int, ratio: int, official: bool) -> Tensor:
    """Scores [C, n] of C queries at positions first, first + 1, ...; -inf where the entry is not visible."""
    if not official:  # the official code rounds dot, product and sum to the activation dtype
        q, weights, keys = wide(q), wide(weights), wide(keys)
    dots = torch.matmul(q.flatten(0, 1), keys.to(q.dtype).T).unflatten(0, q.shape[:2])  # [C, Hi, n]
    scores = wide((dots.relu() * weights.unsqueeze(-1)).sum(1))
    visible = (torch.arange(first, first + q.shape[0], device=q.device) + 1) // ratio
    entry = torch.arange(keys.shape[0], device=q.device)
    return scores.masked_fill(entry >= visible.unsqueeze(-1), -torch.inf)


def _keys(keys: Tensor, table: Tensor, count: int, head_dim: int) -> Tensor:
    """The first `count` keys [count, Di] of the sequence with this block table."""
    return read_keys(keys, slots(table, torch.arange(count, device=keys.device), keys.shape[1]), head_dim)


def indexer_scores(
    q: Tensor,
    weights: Tensor,
    keys: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    ratio: int,
    official: bool,
) -> Tensor:
    """See v4npu.ops.indexer_scores."""
    width = block_table.shape[1] * keys.shape[1]
    out = torch.full((q.shape[0], width), -torch.inf, dtype=wide(q).dtype, device=q.device)
    for b, lo, hi, start in sequences(cu_seqlens_q, start_pos):
        entries = min((start + hi - lo) // ratio, width) if lo < hi else 0  # start of no tokens is not checked
        rows = _keys(keys, block_table[b], entries, q.shape[2])
        out[lo:hi, :entries] = _chunk_scores(q[lo:hi], weights[lo:hi], rows, start, ratio, official)
    return out


def indexer_topk(
    q: Tensor,
    weights: Tensor,
    keys: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    ratio: int,
    topk: int,
    official: bool,
) -> Tensor:
    """See v4npu.ops.indexer_topk."""
    out = torch.full((q.shape[0], topk), -1, dtype=torch.int32, device=q.device)
    for b, lo, hi, start in sequences(cu_seqlens_q, start_pos):
        entries = (start + hi - lo) // ratio
        if entries == 0 or lo == hi:
            continue
        rows = _keys(keys, block_table[b], entries, q.shape[2])
        step = max(1, CHUNK_ELEMENTS // (q.shape[1] * entries))
        for at in range(lo, hi, step):
            end = min(at + step, hi)
            scores = _chunk_scores(q[at:end], weights[at:end], rows, start + at - lo, ratio, official)
            picks = top_indices(scores, topk)
            hidden = scores.gather(1, picks) == -torch.inf
            out[at:end, : picks.shape[1]] = picks.masked_fill(hidden, -1).int()
    return out
