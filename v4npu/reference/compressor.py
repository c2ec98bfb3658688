"""Reference of compressor."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import round_fp4, round_fp8
from v4npu.reference.hadamard import hadamard
from v4npu.reference.pages import write_rows
from v4npu.reference.qkv_prepare import round_kv
from v4npu.reference.rms_norm import rms_norm
from v4npu.reference.rope import rope
from v4npu.reference.sequences import sequences


def _open_rows(state: Tensor | None, start: int, ratio: int, coff: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """kv and score rows that precede the call: the window before (overlap only), then the open window's rows."""
    rows = (coff - 1) * ratio + start % ratio
    kv, score = like.new_zeros(rows, like.shape[1]), like.new_full((rows, like.shape[1]), -torch.inf)
    known = min(rows, start)  # before the first token stands nothing
    if known and state is None:
        raise ValueError(f"v4npu.compressor: state must be given when start_pos is not 0, got start_pos {start}")
    if known and state is not None:
        at = torch.arange(start - known, start, device=like.device) % state.shape[1]
        kv[rows - known :], score[rows - known :] = state[:, at].to(like.dtype)
    return kv, score


def _save_rows(state: Tensor, kv: Tensor, score: Tensor, end: int) -> None:
    """The last rows of those that end at position `end`, into the ring [2, ring, cols]."""
    count = min(kv.shape[0], state.shape[1], end)
    at = torch.arange(end - count, end, device=kv.device) % state.shape[1]
    state[:, at] = torch.stack((kv, score))[:, kv.shape[0] - count :].to(state.dtype)


def _windows(rows: Tensor, count: int, ratio: int, overlap: bool) -> Tensor:
    """The rows that each complete window pools: [count, coff * ratio, D]."""
    if not overlap:
        return rows[: count * ratio].unflatten(0, (count, ratio))
    half = rows.shape[1] // 2
    before = rows[: count * ratio, :half].unflatten(0, (count, ratio))
    own = rows[ratio : (count + 1) * ratio, half:].unflatten(0, (count, ratio))
    return torch.cat((before, own), dim=1)


def compressor(
    kv: Tensor,
    score: Tensor,
    ape: Tensor,
    norm_weight: Tensor,
    freqs: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    state: Tensor | None,
    state_slots: Tensor | None,
    ratio: int,
    overlap: bool,
    eps: float,
    quant: str,
    num_entries: int,
    out_dtype: torch.dtype,
    cache: Tensor | None = None,
    slot_mapping: Tensor | None = None,
) -> Tensor:
    """See v4npu.ops.compressor."""
    coff = 2 if overlap else 1
    pooled, positions = [], []
    places = [] if state_slots is None else state_slots.tolist()
    for b, lo, hi, start in sequences(cu_seqlens_q, start_pos):
        slot = torch.arange(start, start + hi - lo, device=kv.device) % ratio
        own = None if state is None else state[places[b]]
        kv_before, score_before = _open_rows(own, start, ratio, coff, kv)
        kv_rows = torch.cat((kv_before, kv[lo:hi]))
        score_rows = torch.cat((score_before, score[lo:hi] + ape.to(score.dtype)[slot]))
        count = (start % ratio + hi - lo) // ratio
        if count:
            weights = _windows(score_rows, count, ratio, overlap).softmax(1)
            pooled.append((weights * _windows(kv_rows, count, ratio, overlap)).sum(1))
            positions.append(torch.arange(count, device=kv.device) * ratio + start // ratio * ratio)
        if own is not None:
            _save_rows(own, kv_rows, score_rows, start + hi - lo)
    found = sum(p.shape[0] for p in pooled)
    if found != num_entries:
        raise ValueError(f"v4npu.compressor: num_entries must be {found} for these sequences, got {num_entries}")
    if not pooled:
        return kv[:0, : norm_weight.shape[0]].to(out_dtype, copy=True)
    entries = rms_norm(torch.cat(pooled).to(out_dtype), norm_weight, eps)
    entries = rope(entries, torch.cat(positions), freqs)  # an entry sits at its window's first token
    if quant == "fp8":
        entries = round_kv(entries, 2 * freqs.shape[0])
    elif quant == "hadamard_fp4":
        entries = round_fp4(hadamard(entries))
    elif quant == "hadamard_fp8":
        entries = round_fp8(hadamard(entries), entries.shape[1])
    write_rows(cache, entries, slot_mapping, 2 * freqs.shape[0], quant)
    return entries
