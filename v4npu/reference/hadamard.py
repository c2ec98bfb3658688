"""Reference of hadamard."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import wide


def hadamard(x: Tensor) -> Tensor:
    """See v4npu.ops.hadamard."""
    n = x.shape[-1]
    y = wide(x)
    half = 1
    while half < n:  # Sylvester order: butterflies over the bits of the index
        a, b = y.unflatten(-1, (-1, 2, half)).unbind(-2)
        y = torch.stack((a + b, a - b), dim=-2).flatten(-3)
        half *= 2
    return (y * n**-0.5).to(x.dtype)
