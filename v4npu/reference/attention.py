"""Reference of window_attention, csa_attention and hca_attention.

Official numerics walk each query's own list of rows, because the rounding of the probabilities depends on the running
maximum of its 64-entry blocks. Exact numerics need no list: a dense masked product over the chunk's rows gives the
same value, and its GEMMs keep the reference fast enough to train with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from v4npu.reference.formats import wide, wide_dtype
from v4npu.reference.pages import read_kv, slots
from v4npu.reference.rope import rope
from v4npu.reference.sequences import sequences

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
    unused = ~valid.unsqueeze(-1)
    keys = rows.to(wide_dtype(q)).masked_fill(unused, 0)  # whatever stands there, NaN too, counts for nothing
    scores = torch.matmul(wide(q), keys.transpose(1, 2)) * scale
    p, total = _probabilities(scores.masked_fill(~valid.unsqueeze(1), -torch.inf), sink, rounded)
    return (torch.matmul(p, keys) / total).to(q.dtype)


def _attend_dense(q: Tensor, rows: Tensor, visible: Tensor, sink: Tensor | None, scale: float) -> Tensor:
    """q [C, H, D] over common rows [N, D] where visible [C, N]; the visible ones are finite."""
    keys = rows.to(wide_dtype(q))
    keys = keys.masked_fill(~keys.isfinite().all(-1, keepdim=True), 0)
    scores = torch.matmul(wide(q).flatten(0, 1), keys.T).unflatten(0, q.shape[:2]) * scale
    p, total = _probabilities(scores.masked_fill(~visible.unsqueeze(1), -torch.inf), sink, None)
    return (torch.matmul(p.flatten(0, 1), keys).unflatten(0, q.shape[:2]) / total).to(q.dtype)


class Rows:
    """The KV rows of one sequence: position or entry i lies where the block table says."""

    def __init__(self, pages: Tensor, table: Tensor, head_dim: int, rope_dim: int) -> None:
        self.pages, self.table, self.dims = pages, table, (head_dim, rope_dim)

    def read(self, index: Tensor) -> Tensor:
        """Rows [..., D] of int64 indices [...]."""
        return read_kv(self.pages, slots(self.table, index, self.pages.shape[1]), *self.dims)


def _window(rows: Rows, t: Tensor, window: int, listed: bool) -> tuple[Tensor, Tensor]:
    """What the queries at positions t see of their windows, oldest first: every query's own list of rows [C, window, D]
    and which exist [C, window], or all rows of the chunk [N, D] and who sees which [C, N]."""
    first = max(0, int(t[0]) - window + 1)
    position = torch.arange(first, int(t[-1]) + 1, device=t.device)
    span = rows.read(position)
    if not listed:
        age = t.unsqueeze(-1) - position
        return span, (age >= 0) & (age < window)
    place = (t - window + 1).clamp_min(0).unsqueeze(-1) + torch.arange(window, device=t.device)
    seen = place <= t.unsqueeze(-1)
    return span[place.where(seen, t.unsqueeze(-1)) - first], seen


def _entries(
    rows: Rows, t: Tensor, picks: Tensor | None, ratio: int, count: int, listed: bool
) -> tuple[Tensor, Tensor]:
    """What the queries see of `count` entries, in the same two forms: the picked ones (CSA) or all complete (HCA)."""
    entry = torch.arange(count, device=t.device)
    if picks is None:
        seen = entry < ((t + 1) // ratio).unsqueeze(-1)
        known = rows.read(entry)
        return (known.expand(len(t), -1, -1) if listed else known), seen
    if listed:
        return rows.read(picks.clamp_min(0).long()), picks >= 0
    marked = torch.zeros(len(t), count + 1, dtype=torch.bool, device=t.device)
    slot = torch.where(picks >= 0, picks.long(), count)
    return rows.read(entry), marked.scatter(1, slot, True)[:, :count]


def _chunks(lo: int, hi: int, start: int, step: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Query slices of the packed tokens lo..hi and the absolute positions in each."""
    for at in range(lo, hi, step):
        end = min(at + step, hi)
        yield slice(at, end), torch.arange(start + at - lo, start + end - lo, device=device)


def _highest(picks: Tensor) -> int:
    """The largest entry that is picked; -1 where none is, which any negative number says."""
    return max(-1, int(picks.max())) if picks.numel() else -1


def _sequence(
    q: Tensor,
    window_rows: Rows,
    entries: Rows | None,
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
    count = 0
    if entries is not None:
        count = (start + hi - lo) // ratio if picks is None else _highest(picks[lo:hi]) + 1
    listed = count if picks is None else picks.shape[1]
    by_list = official or count > 8 * max(listed, 1)
    rounded = q.dtype if official and q.dtype == torch.bfloat16 else None
    step = max(1, min(DENSE_CHUNK, LIST_ELEMENTS // ((window + listed) * q.shape[-1]))) if by_list else DENSE_CHUNK

    def gather(part: slice, t: Tensor, by_list: bool) -> tuple[Tensor, Tensor]:
        rows, seen = _window(window_rows, t, window, by_list)
        if entries is not None and count:
            extra = _entries(entries, t, None if picks is None else picks[part], ratio, count, by_list)
            rows, seen = torch.cat((rows, extra[0].to(rows.dtype)), dim=-2), torch.cat((seen, extra[1]), dim=-1)
        return rows, seen

    out = []
    for part, t in _chunks(lo, hi, start, step, q.device):
        rows, seen = gather(part, t, by_list)
        if by_list:
            out.append(_attend_listed(q[part], rows, seen, sink, scale, rounded))
        elif rows[seen.any(0)].isfinite().all():
            out.append(_attend_dense(q[part], rows, seen, sink, scale))
        else:  # 0 * NaN would reach the queries of the product that do not see the row
            for i in range(len(t)):
                one = slice(part.start + i, part.start + i + 1)
                out.append(_attend_listed(q[one], *gather(one, t[i : i + 1], True), sink, scale, rounded))
    return out


def _attention(
    q: Tensor,
    window_kv: tuple[Tensor, Tensor],
    compressed: tuple[Tensor, Tensor] | None,
    picks: Tensor | None,
    ratio: int,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    sink: Tensor | None,
    scale: float,
    window: int,
    rope_dim: int,
    official: bool,
) -> Tensor:
    out: list[Tensor] = []
    dims = (q.shape[2], rope_dim)
    for b, lo, hi, start in sequences(cu_seqlens_q, start_pos):
        if hi > lo:
            rows = Rows(window_kv[0], window_kv[1][b], *dims)
            entries = None if compressed is None else Rows(compressed[0], compressed[1][b], *dims)
            out += _sequence(q, rows, entries, picks, ratio, (lo, hi, start), sink, scale, window, official)
    return torch.cat(out) if out else torch.zeros_like(q) + q[:0].sum()  # with a gradient, if an empty one


def _turned_back(out: Tensor, positions: Tensor | None, freqs: Tensor | None) -> Tensor:
    return out if positions is None or freqs is None else rope(out, positions, freqs, inverse=True)


def window_attention(
    q: Tensor,
    window_kv: Tensor,
    window_table: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    attn_sink: Tensor | None,
    softmax_scale: float,
    window: int,
    rope_dim: int,
    official: bool,
    positions: Tensor | None = None,
    freqs: Tensor | None = None,
) -> Tensor:
    """See v4npu.ops.window_attention."""
    where = (cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, rope_dim, official)
    return _turned_back(_attention(q, (window_kv, window_table), None, None, 0, *where), positions, freqs)


def csa_attention(
    q: Tensor,
    window_kv: Tensor,
    window_table: Tensor,
    compressed_kv: Tensor,
    block_table: Tensor,
    topk_indices: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    attn_sink: Tensor | None,
    softmax_scale: float,
    window: int,
    rope_dim: int,
    official: bool,
    positions: Tensor | None = None,
    freqs: Tensor | None = None,
) -> Tensor:
    """See v4npu.ops.csa_attention."""
    where = (cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, rope_dim, official)
    return _turned_back(
        _attention(q, (window_kv, window_table), (compressed_kv, block_table), topk_indices, 0, *where),
        positions,
        freqs,
    )


def hca_attention(
    q: Tensor,
    window_kv: Tensor,
    window_table: Tensor,
    compressed_kv: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    attn_sink: Tensor | None,
    softmax_scale: float,
    window: int,
    ratio: int,
    rope_dim: int,
    official: bool,
    positions: Tensor | None = None,
    freqs: Tensor | None = None,
) -> Tensor:
    """See v4npu.ops.hca_attention."""
    where = (cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, rope_dim, official)
    return _turned_back(
        _attention(q, (window_kv, window_table), (compressed_kv, block_table), None, ratio, *where), positions, freqs
    )
