"""Reference of rms_norm."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import wide


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """rsqrt(mean(x^2) + eps) over the last dimension, kept, in x's dtype."""
    mean = x.square().mean(-1, keepdim=True)
    # Of a bfloat16 tensor and a number torch rounds the number first on a CPU, and not on a GPU.
    return torch.rsqrt((wide(mean) + eps).to(x.dtype))


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """See v4npu.ops.rms_norm."""
    w = wide(x)
    y = w * inverse_rms(w, eps)
    if weight is not None:
        y = y * weight.to(y.dtype)
    return y.to(x.dtype).contiguous()
