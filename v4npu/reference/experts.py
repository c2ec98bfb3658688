"""Reference of swiglu and moe_experts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from v4npu.reference.formats import WEIGHT_BLOCK, dequantise_weight, round_fp8, wide


def swiglu(gate: Tensor, up: Tensor, weights: Tensor | None, limit: float) -> Tensor:
    """See v4npu.ops.swiglu."""
    a, u = wide(gate), wide(up)
    if limit > 0:
        a, u = a.clamp(max=limit), u.clamp(-limit, limit)
    y = silu(a) * u
    if weights is not None:
        y = y * weights.to(y.dtype).unsqueeze(-1)
    return y.to(gate.dtype).contiguous()


def moe_experts(
    x: Tensor,
    topk_indices: Tensor,
    topk_weights: Tensor,
    w1: Tensor,
    w1_scale: Tensor | None,
    w3: Tensor,
    w3_scale: Tensor | None,
    w2: Tensor,
    w2_scale: Tensor | None,
    swiglu_limit: float,
    official: bool,
    shared: Tensor | None = None,
) -> Tensor:
    """See v4npu.ops.moe_experts."""
    quantised = official and w1_scale is not None

    def rounded(a: Tensor) -> Tensor:
        return round_fp8(a, WEIGHT_BLOCK) if quantised else a

    def matrix(weight: Tensor, scale: Tensor | None, e: int) -> Tensor:
        return dequantise_weight(weight[e], None if scale is None else scale[e], x.dtype)

    out = torch.zeros_like(wide(x)) + wide(x)[:0].sum()  # with a gradient even where nothing is added to it
    tokens = rounded(x)
    chosen = topk_indices.unique().tolist()
    for e in (e for e in chosen if not 0 <= e < len(w1)):
        raise ValueError(f"v4npu.moe_experts: topk_indices must be in 0 .. {len(w1) - 1}, got {e}")
    for e in chosen:  # ascending: the order of the sum is part of the contract
        token, slot = torch.where(topk_indices == e)
        rows = tokens[token]
        hidden = swiglu(
            linear(rows, matrix(w1, w1_scale, e)),
            linear(rows, matrix(w3, w3_scale, e)),
            topk_weights[token, slot],
            swiglu_limit,
        )
        out = out.index_add(0, token, wide(linear(rounded(hidden), matrix(w2, w2_scale, e))))
    return out if shared is None else (out + wide(shared)).to(x.dtype)
