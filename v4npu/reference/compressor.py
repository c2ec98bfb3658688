"""Reference of compressor (v4_spec 2.7)."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import round_fp4
from v4npu.reference.hadamard import hadamard
from v4npu.reference.qkv_prepare import round_kv
from v4npu.reference.rms_norm import rms_norm
from v4npu.reference.rope import rope
from v4npu.reference.sequences import sequences


def _open_rows(state: Tensor | None, b: int, start: int, ratio: int, coff: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """kv and score rows that precede the call: the window before (overlap only), then the open window's rows."""
    rows = (coff - 1) * ratio + start % ratio
    if state is not None:
        return state[b, 0, :rows].to(like.dtype), state[b, 1, :rows].to(like.dtype)
    if start:
        raise ValueError(f"v4npu.compressor: state must be given when start_pos is not 0, got start_pos {start}")
    return like.new_zeros(rows, like.shape[1]), like.new_full((rows, like.shape[1]), -torch.inf)


def _save_rows(state: Tensor, b: int, kv: Tensor, score: Tensor) -> None:
    state[b, 0] = 0
    state[b, 1] = -torch.inf
    state[b, 0, : kv.shape[0]] = kv.to(state.dtype)
    state[b, 1, : score.shape[0]] = score.to(state.dtype)


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
    ratio: int,
    overlap: bool,
    eps: float,
    quant: str,
    num_entries: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """See v4npu.ops.compressor."""
    coff = 2 if overlap else 1
    pooled, positions = [], []
    for b, lo, hi, start in sequences(cu_seqlens_q, start_pos):
        slot = torch.arange(start, start + hi - lo, device=kv.device) % ratio
        kv_before, score_before = _open_rows(state, b, start, ratio, coff, kv)
        kv_rows = torch.cat((kv_before, kv[lo:hi]))
        score_rows = torch.cat((score_before, score[lo:hi] + ape.to(score.dtype)[slot]))
        count = (start % ratio + hi - lo) // ratio
        if count:
            weights = _windows(score_rows, count, ratio, overlap).softmax(1)
            pooled.append((weights * _windows(kv_rows, count, ratio, overlap)).sum(1))
            positions.append(torch.arange(count, device=kv.device) * ratio + start // ratio * ratio)
        if state is not None:
            _save_rows(state, b, kv_rows[count * ratio :], score_rows[count * ratio :])
    found = sum(p.shape[0] for p in pooled)
    if found != num_entries:
        raise ValueError(f"v4npu.compressor: num_entries must be {found} for these sequences, got {num_entries}")
    if not pooled:
        return kv.new_zeros((0, norm_weight.shape[0]), dtype=out_dtype)
    entries = rms_norm(torch.cat(pooled).to(out_dtype), norm_weight, eps)
    entries = rope(entries, torch.cat(positions), freqs)  # an entry sits at its window's first token
    if quant == "fp8":
        return round_kv(entries, 2 * freqs.shape[0])
    if quant == "hadamard_fp4":
        return round_fp4(hadamard(entries))
    return entries
