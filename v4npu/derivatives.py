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
    return (torch.is_grad_enabled() and any(map(_WANTS, tensors))) or (
        forward_ad._current_level >= 0 and any(map(has_tangent, tensors))
    )


def has_tangent(tensor: Tensor) -> bool:
    """Whether it carries one, of forward-mode differentiation."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None
