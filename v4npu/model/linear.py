"""A linear layer over a weight of any stored format, and the activation that several of them share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from v4npu import ops
from v4npu.model.module import Module
from v4npu.reference.formats import FP4_BLOCK, WEIGHT_BLOCK, wide_dtype

QUANTISED = (torch.float8_e4m3fn, torch.int8)  # what weights may be stored as, beside floating point


class Activation:
    """The input of one or more linears; official numerics quantise it once, when the first quantised weight asks."""

    def __init__(self, x: Tensor, official: bool) -> None:
        self.x = x
        self.official = official
        self._quantised: tuple[Tensor, Tensor] | None = None

    def operand(self) -> tuple[Tensor, Tensor | None]:
        """(e4m3, ue8m0 scales) in official numerics, (x, None) in exact numerics."""
        if not self.official:
            return self.x, None
        if self._quantised is None:
            self._quantised = ops.act_quant(self.x, WEIGHT_BLOCK)
        return self._quantised


def scale_shape(weight: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the ue8m0 scales of a quantised weight of logical shape [..., N, K]."""
    *lead, n, k = shape
    if weight.dtype == torch.int8:
        return (*lead, n, k // FP4_BLOCK)
    return (*lead, -(-n // WEIGHT_BLOCK), -(-k // WEIGHT_BLOCK))


class Linear(Module):
    """y = x W^T, no bias. The weight is float, e4m3 with 128x128 scales, or packed FP4 (int8) with scales of 32."""

    scale: Tensor | None

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype, *, experts: int = 0) -> None:
        super().__init__()
        shape = (out_features, in_features) if not experts else (experts, out_features, in_features)
        self.shape = shape
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
        self.register_buffer("scale", None)

    @property
    def quantised(self) -> bool:
        return self.weight.dtype in QUANTISED

    def forward(self, a: Activation) -> Tensor:
        weight, scale = self.weight, self.scale
        if weight.dtype not in QUANTISED:
            return ops.linear(a.x, weight, a.x.dtype)
        if scale is None:
            raise ValueError("a quantised weight needs its scale")
        linear = ops.fp4_linear if weight.dtype == torch.int8 else ops.fp8_linear
        return linear(*a.operand(), weight, scale, a.x.dtype)

    def wide(self, x: Tensor) -> Tensor:
        """The product in float32 (float64 when x is), whatever the weight's dtype: compressor, gate and head."""
        return ops.linear(x, self.weight, wide_dtype(x))


class Norm(Module):
    """RMSNorm with a weight."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


def float_parameter(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """A parameter that stays in float32 (float64 in a float64 model) whatever the model's dtype."""
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    return nn.Parameter(torch.empty(shape, dtype=kept, device="meta"))
