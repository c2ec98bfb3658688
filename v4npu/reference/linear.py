"""Reference of linear, fp8_linear, fp4_linear and grouped_linear."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import WEIGHT_BLOCK, dequantise_rows, dequantise_weight


def _linear(x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, out_dtype: torch.dtype) -> Tensor:
    # Quantised operands are exact in bfloat16 too, whose GEMM accumulates in float32 and rounds once on output.
    a = (x if x_scale is None else dequantise_rows(x, x_scale, WEIGHT_BLOCK)).to(out_dtype)
    return torch.nn.functional.linear(a, dequantise_weight(weight, weight_scale, out_dtype))


def linear(x: Tensor, weight: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See v4npu.ops.linear."""
    if not x.dtype == weight.dtype == out_dtype:
        kept = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
        x, weight = x.to(kept), weight.to(kept)
    return torch.nn.functional.linear(x, weight).to(out_dtype)


def fp8_linear(
    x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """See v4npu.ops.fp8_linear."""
    return _linear(x, x_scale, weight, weight_scale, out_dtype)


def fp4_linear(
    x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """See v4npu.ops.fp4_linear."""
    return _linear(x, x_scale, weight, weight_scale, out_dtype)


def grouped_linear(x: Tensor, weight: Tensor, weight_scale: Tensor | None) -> Tensor:
    """See v4npu.ops.grouped_linear."""
    groups = x.shape[1]
    plain = dequantise_weight(weight, weight_scale, x.dtype).unflatten(0, (groups, -1))  # [g, n, k]
    return torch.bmm(x.transpose(0, 1), plain.transpose(1, 2)).transpose(0, 1).contiguous()
