"""Whether a derivative is recorded: the references pass one on; kernels, and the pages of a cache, do not."""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

import torch
from torch import Tensor
from torch.autograd import forward_ad

_WANTS = attrgetter("requires_grad")


def possible() -> bool:
    """Whether any could be recorded now."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


def recorded(tensors: Collection[Tensor]) -> bool:
    """Whether one of them wants a gradient that is recorded now, or carries a tangent (torch.func.jvp, jacfwd)."""
    if torch.is_grad_enabled() and any(map(_WANTS, tensors)):
        return True
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
