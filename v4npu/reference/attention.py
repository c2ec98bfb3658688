"""Reference of window_attention, csa_attention and hca_attention (v4_spec 2.6, 2.9).

Official numerics walk each query's own list of rows, because the rounding of the probabilities depends on the running
maximum of its 64-entry blocks. Exact numerics need no list: a dense masked product over the chunk's rows gives the
same value, and its GEMMs keep the reference fast enough to train with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from v4npu.reference.formats import wide
from v4npu.reference.sequences import paged_rows, sequences

BLOCK = 64  # list entries per step of the online softmax
DENSE_CHUNK = 128  # queries per dense product
LIST_ELEMENTS = 1 << 24  # bound on gathered [queries, list, D]


def _probabilities(scores: Tensor, sink: Tensor | None, rounded: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Unnormalised probabilities [C, H, L] and their denominators [C, H, 1]; scores are -inf where absent.

    With `rounded`, every probability is rounded to that dtype relative to the running maximum of its block.
    """
    if rounded is None:
        peak = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
        p = torch.exp(scores - peak)
        total = p.sum(-1, keepdim=True)
    else:
        blocks = torch.nn.functional.pad(scores, (0, -scores.shape[-1] % BLOCK), value=-torch.inf)
        blocks = blocks.unflatten(-1, (-1, BLOCK))
        running = blocks.amax(-1).cummax(-1).values.clamp_min(torch.finfo(scores.dtype).min)
        peak = running[..., -1:]
        p = torch.exp(blocks - running.unsqueeze(-1))
        rescale = torch.exp(running - peak).unsqueeze(-1)
        total = (p * rescale).flatten(-2).sum(-1, keepdim=True)
        p = (p.to(rounded).to(scores.dtype) * rescale).flatten(-2)[..., : scores.shape[-1]]
    if sink is not None:
        total = total + torch.exp(sink.to(scores.dtype).view(1, -1, 1) - peak)
    return p, total


def _attend_listed(
    q: Tensor, rows: Tensor, valid: Tensor, sink: Tensor | None, scale: float, rounded: torch.dtype | None
) -> Tensor:
    """q [C, H, D] over its own rows [C, L, D] where valid [C, L]."""
    keys = wide(rows).masked_fill(
        ~valid.unsqueeze(-1), 0
    )  # whatever stands in an unused slot, NaN too, counts for nothing
    scores = torch.matmul(wide(q), keys.transpose(1, 2)) * scale
    p, total = _probabilities(scores.masked_fill(~valid.unsqueeze(1), -torch.inf), sink, rounded)
    return (torch.matmul(p, keys) / total).to(q.dtype)


def _attend_dense(q: Tensor, rows: Tensor, visible: Tensor, sink: Tensor | None, scale: float) -> Tensor:
    """q [C, H, D] over common rows [N, D] where visible [C, N]."""
    keys = wide(rows)
    scores = torch.matmul(wide(q).flatten(0, 1), keys.T).unflatten(0, q.shape[:2]) * scale
    p, total = _probabilities(scores.masked_fill(~visible.unsqueeze(1), -torch.inf), sink, None)
    return (torch.matmul(p.flatten(0, 1), keys).unflatten(0, q.shape[:2]) / total).to(q.dtype)


def _window_list(ring: Tensor, t: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Rows [C, window, D] of the positions each query sees, oldest first, and which of them exist."""
    position = (t - window + 1).clamp_min(0).unsqueeze(-1) + torch.arange(window, device=t.device)
    return ring[position % ring.shape[0]], position <= t.unsqueeze(-1)


def _window_dense(ring: Tensor, t: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Rows [N, D] of all positions the chunk sees and who sees which [C, N]."""
    position = torch.arange(max(0, int(t[0]) - window + 1), int(t[-1]) + 1, device=t.device)
    age = t.unsqueeze(-1) - position
    return ring[position % ring.shape[0]], (age >= 0) & (age < window)


def _chunks(lo: int, hi: int, start: int, step: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Query slices of the packed tokens lo..hi and the absolute positions in each."""
    for at in range(lo, hi, step):
        end = min(at + step, hi)
        yield slice(at, end), torch.arange(start + at - lo, start + end - lo, device=device)


def _sequence(
    q: Tensor,
    ring: Tensor,
    entries: Tensor | None,
    picks: Tensor | None,
    ratio: int,
    where: tuple[int, int, int],
    sink: Tensor | None,
    scale: float,
    window: int,
    official: bool,
) -> list[Tensor]:
    """One sequence: its window, plus the picked entries (CSA), all visible ones (HCA) or none."""
    lo, hi, start = where
    if entries is not None:
        known = (start + hi - lo) // ratio if picks is None else int(picks[lo:hi].max()) + 1
        entries = entries[:known]
    count = 0 if entries is None else entries.shape[0]
    listed = count if picks is None else picks.shape[1]
    by_list = official or count > 8 * max(listed, 1)
    rounded = q.dtype if official and q.dtype == torch.bfloat16 else None
    step = max(1, min(DENSE_CHUNK, LIST_ELEMENTS // ((window + listed) * q.shape[-1]))) if by_list else DENSE_CHUNK
    out = []
    for part, t in _chunks(lo, hi, start, step, q.device):
        rows, seen = (_window_list if by_list else _window_dense)(ring, t, window)
        if entries is not None and count:
            entry = torch.arange(count, device=q.device)
            if picks is None:
                extra_seen = entry < ((t + 1) // ratio).unsqueeze(-1)
                extra = entries.expand(len(t), -1, -1) if by_list else entries
            elif by_list:
                extra_seen = picks[part] >= 0
                extra = entries[picks[part].clamp_min(0).long()]
            else:
                extra = entries
                marked = torch.zeros(len(t), count + 1, dtype=torch.bool, device=q.device)
                slot = torch.where(picks[part] >= 0, picks[part].long(), count)
                extra_seen = marked.scatter(1, slot, True)[:, :count]
            rows = torch.cat((rows, extra.to(rows.dtype)), dim=-2)
            seen = torch.cat((seen, extra_seen), dim=-1)
        if by_list:
            out.append(_attend_listed(q[part], rows, seen, sink, scale, rounded))
        else:
            out.append(_attend_dense(q[part], rows, seen, sink, scale))
    return out


def _attention(
    q: Tensor,
    window_kv: Tensor,
    compressed: tuple[Tensor, Tensor] | None,
    picks: Tensor | None,
    ratio: int,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    sink: Tensor | None,
    scale: float,
    window: int,
    official: bool,
) -> Tensor:
    out: list[Tensor] = []
    for b, lo, hi, start in sequences(cu_seqlens_q, start_pos):
        entries = None if compressed is None else paged_rows(*compressed, b)
        where = (lo, hi, start)
        if hi > lo:
            out += _sequence(q, window_kv[b], entries, picks, ratio, where, sink, scale, window, official)
    return torch.cat(out) if out else torch.zeros_like(q)


def window_attention(
    q: Tensor,
    window_kv: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    attn_sink: Tensor | None,
    softmax_scale: float,
    window: int,
    official: bool,
) -> Tensor:
    """See v4npu.ops.window_attention."""
    return _attention(q, window_kv, None, None, 0, cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, official)


def csa_attention(
    q: Tensor,
    window_kv: Tensor,
    compressed_kv: Tensor,
    block_table: Tensor,
    topk_indices: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    attn_sink: Tensor | None,
    softmax_scale: float,
    window: int,
    official: bool,
) -> Tensor:
    """See v4npu.ops.csa_attention."""
    pages = (compressed_kv, block_table)
    return _attention(
        q,
        window_kv,
        pages,
        topk_indices,
        0,
        cu_seqlens_q,
        start_pos,
        attn_sink,
        softmax_scale,
        window,
        official,
    )


def hca_attention(
    q: Tensor,
    window_kv: Tensor,
    compressed_kv: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    attn_sink: Tensor | None,
    softmax_scale: float,
    window: int,
    ratio: int,
    official: bool,
) -> Tensor:
    """See v4npu.ops.hca_attention."""
    pages = (compressed_kv, block_table)
    return _attention(
        q, window_kv, pages, None, ratio, cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, official
    )
