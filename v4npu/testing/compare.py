"""How close two tensors are."""

from __future__ import annotations

from torch import Tensor


def calc_diff(x: Tensor, y: Tensor) -> float:
    """1 - 2 sum(xy) / sum(x^2 + y^2): 0 when equal, scale-free."""
    a, b = x.double(), y.double()
    return float(1 - 2 * (a * b).sum() / (a * a + b * b).sum())


def max_error(x: Tensor, y: Tensor) -> float:
    """Largest difference, relative to the largest magnitude of y."""
    return float((x.double() - y.double()).abs().max() / y.double().abs().max())
