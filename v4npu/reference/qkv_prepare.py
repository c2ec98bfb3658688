"""Reference of qkv_prepare."""

from __future__ import annotations

from torch import Tensor

from v4npu.reference.formats import round_fp8, wide
from v4npu.reference.pages import KV_BLOCK, write_rows
from v4npu.reference.rms_norm import inverse_rms, rms_norm
from v4npu.reference.rope import rope


def round_kv(row: Tensor, rope_dim: int) -> Tensor:
    """The FP8 rounding of a KV row: every dimension but the rotated last ones, one scale per 64."""
    keep = row.shape[-1] - rope_dim
    rounded = row.clone()
    rounded[..., :keep] = round_fp8(row[..., :keep], KV_BLOCK)
    return rounded


def qkv_prepare(
    q: Tensor,
    kv: Tensor,
    kv_norm_weight: Tensor,
    positions: Tensor,
    freqs: Tensor,
    eps: float,
    official: bool,
    window_cache: Tensor | None = None,
    slot_mapping: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See v4npu.ops.qkv_prepare."""
    # The official code takes the head statistic in the activation dtype and rounds after each step.
    x = q if official else wide(q)
    q = rope((x * inverse_rms(x, eps)).to(q.dtype), positions, freqs)
    kv = rope(rms_norm(kv, kv_norm_weight, eps), positions, freqs)
    if official:
        kv = round_kv(kv, 2 * freqs.shape[0])
    write_rows(window_cache, kv, slot_mapping, 2 * freqs.shape[0], "fp8")
    return q, kv
