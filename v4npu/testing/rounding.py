"""Number formats, norm and RoPE once more, in float64 from their definitions: what tests of rounding points expect.

Independent of v4npu/reference on purpose. Every function returns float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Round = Callable[[Tensor], Tensor]


def _to_step(x: Tensor, bits: int, smallest: int) -> Tensor:
    """x to `bits` significant bits, ties to even; below 2**smallest the steps stay as wide as there."""
    exponent = (torch.frexp(x).exponent - 1).clamp_min(smallest)
    step = torch.ldexp(torch.ones_like(x), exponent - (bits - 1))
    return torch.round(x / step) * step


def bf16(x: Tensor) -> Tensor:
    """Nearest bfloat16."""
    return _to_step(x.double(), 8, -126)


def fp32(x: Tensor) -> Tensor:
    """Nearest float32."""
    return _to_step(x.double(), 24, -126)


def unrounded(x: Tensor) -> Tensor:
    """The value itself: in the place of a rounding, to leave it out."""
    return x.double()


def _blockwise(x: Tensor, block: int, top: float, floor: float, bits: int, smallest: int) -> Tensor:
    blocks = x.double().unflatten(-1, (-1, block))
    amax = blocks.abs().amax(-1, keepdim=True).clamp_min(floor)
    scale = torch.exp2(torch.ceil(torch.log2(amax / top)))
    return (_to_step(blocks / scale, bits, smallest).clamp(-top, top) * scale).flatten(-2)


def fp8(x: Tensor, block: int) -> Tensor:
    """Nearest e4m3 with a power-of-two scale per block of the last dim."""
    return _blockwise(x, block, 448.0, 1e-4, 4, -6)


def fp4(x: Tensor, block: int = 32) -> Tensor:
    """Nearest e2m1 with a power-of-two scale per block of the last dim."""
    return _blockwise(x, block, 6.0, 6 * 2.0**-126, 2, 0)


def inverse_rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    """rsqrt(mean(x^2) + eps) of the last dim, kept."""
    return torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps)


def norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm."""
    return x.double() * inverse_rms(x, eps) * weight.double()


def rope(
    x: Tensor, positions: Tensor, freqs: Tensor, cos_sin: Round = unrounded, angle: Round = fp32, sign: int = 1
) -> Tensor:
    """RoPE of the last dims of x [T, ..., D], nothing rounded but the angle; sign -1 turns back."""
    a = angle(positions.double()[:, None] * freqs.double()).view(len(positions), *[1] * (x.dim() - 2), -1)
    cos, sin = cos_sin(a.cos()), sign * cos_sin(a.sin())
    still = x.shape[-1] - 2 * len(freqs)
    even, odd = x[..., still::2].double(), x[..., still + 1 :: 2].double()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
    return torch.cat((x[..., :still].double(), turned), -1)


def unequal(a: Tensor, b: Tensor) -> float:
    """Share of the elements that differ in any bit of their value."""
    return float((a.double() != b.double()).double().mean())


def assert_rounded(
    actual: Tensor, expected: Tensor, without: dict[str, Tensor], ties: float = 0.0, step: float = 2.0**-7
) -> None:
    """`actual` has every rounding of `expected`, and would not pass for any of `without`, which leave one out.

    Args:
        without: what would be expected if the rounding that names it were absent or elsewhere.
        ties: share of elements that may round the other way, where float32 and its free order of summation come
            so close to the middle of two values that float64 decides otherwise; 0 where float32 is exact.
        step: how far those may lie apart, relative to their value: one bfloat16 unit in the last place.
    """
    assert actual.shape == expected.shape and bool(expected.isfinite().all())
    share, off = unequal(actual, expected), (actual.double() - expected).abs() / expected.abs().clamp_min(1e-30)
    assert share <= ties and float(off.max()) <= step, f"{share:.2%} of the elements differ, by up to {off.max():.2e}"
    for name, other in without.items():
        found = unequal(actual, other)
        assert found > 3 * ties, f"a rounding left out goes unnoticed ({name}): {found:.2%} of the elements differ"
