"""Reference of rope and of the two frequency sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from v4npu.reference.formats import wide


def rope_frequencies(
    rope_dim: int,
    theta: float,
    *,
    factor: float = 1.0,
    original_max_position: int = 0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Tensor:
    """Frequencies float32 [rope_dim/2]; YaRN interpolation when original_max_position > 0 (no attention factor)."""
    exponent = torch.arange(0, rope_dim, 2, dtype=torch.float32, device="cpu") / rope_dim
    freqs = 1.0 / (theta**exponent)
    if original_max_position <= 0:
        return freqs

    def correction(rotations: float) -> float:
        return rope_dim * math.log(original_max_position / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(correction(beta_fast)), 0)
    high = min(math.ceil(correction(beta_slow)), rope_dim - 1)
    width = high - low or 0.001  # equal bounds would divide by zero
    ramp = ((torch.arange(rope_dim // 2, dtype=torch.float32, device="cpu") - low) / width).clamp(0, 1)
    keep = 1 - ramp
    return freqs / factor * (1 - keep) + freqs * keep


def rope(x: Tensor, positions: Tensor, freqs: Tensor, inverse: bool = False) -> Tensor:
    """See v4npu.ops.rope."""
    rope_dim = 2 * freqs.shape[0]
    # The product is rounded once in float32 before sin and cos; at a million tokens that rounding shows, so keep it.
    angle = positions.to(torch.float32).unsqueeze(-1) * freqs.to(torch.float32)
    angle = angle.to(wide(x).dtype)
    angle = angle.view(positions.shape[0], *([1] * (x.dim() - 2)), freqs.shape[0])
    cos, sin = angle.cos(), angle.sin()
    if inverse:
        sin = -sin
    keep, turn = x.split([x.shape[-1] - rope_dim, rope_dim], dim=-1)
    even, odd = wide(turn).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    return torch.cat((keep, turned.to(x.dtype)), dim=-1)
