"""Whether a derivative is recorded: the references pass one on; kernels, and the pages of a cache, do not."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def recorded(tensors: Iterable[Tensor]) -> bool:
    """Whether one of them wants a gradient that is recorded now, or carries a tangent (torch.func.jvp, jacfwd)."""
    tensors = list(tensors)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
