"""Number formats of V4: e4m3, packed e2m1, ue8m0 scales; quantise and dequantise.

All scales are powers of two, so `quantised * scale` is exact in float32 and, for e4m3 and e2m1, in bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu import derivatives

FP8_MAX = 448.0
FP4_MAX = 6.0
FP8_AMAX_FLOOR = 1e-4
FP4_AMAX_FLOOR = 6.0 * 2.0**-126
WEIGHT_BLOCK = 128  # FP8 weights carry one scale per 128x128 block
FP4_BLOCK = 32  # FP4 weights and indexer vectors carry one scale per 32 elements
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Rounding boundaries between neighbouring e2m1 codes; a tie goes to the even code.
_E2M1_EDGES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_E2M1_TIE_UP = (False, True, False, True, False, True, False)


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype that arithmetic runs in: float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wide(x: Tensor) -> Tensor:
    """The tensor in the dtype that arithmetic runs in."""
    return x.to(wide_dtype(x))


def ceil_log2(x: Tensor) -> Tensor:
    """ceil(log2(x)) of positive normal float32 values, from the bits: exponent, plus 1 if any mantissa bit is set."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits >> 23) & 0xFF) - 127 + ((bits & 0x7FFFFF) != 0).int()


def exp2_int(exponent: Tensor) -> Tensor:
    """2**exponent in float32 for int32 exponents -127..127 (-127 is subnormal, as ue8m0 byte 0 is); 128: infinity.

    From the bits: torch.ldexp asks a device for its power function, which need not be exact.
    """
    return ((exponent + 127) << 23).clamp_min(1 << 22).view(torch.float32)


def e8m0_to_float(scale: Tensor) -> Tensor:
    """ue8m0 bytes (float8_e8m0fnu, or uint8) to float32 powers of two; byte 255 is NaN."""
    byte = scale.view(torch.uint8).int()
    value = exp2_int(byte - 127)
    return torch.where(byte == 255, torch.full_like(value, float("nan")), value)


def float_to_e8m0(exponent: Tensor) -> Tensor:
    """Integer exponents -127..127 to ue8m0."""
    return (exponent + 127).clamp(0, 254).to(torch.uint8).view(torch.float8_e8m0fnu)


def e2m1_encode(x: Tensor) -> Tensor:
    """Nearest e2m1 code (0..15, bit 3 = sign) of values already clamped to +-6; ties to the even code; NaN: zero."""
    magnitude = x.abs()
    code = torch.zeros_like(x, dtype=torch.uint8)
    for edge, tie_up in zip(_E2M1_EDGES, _E2M1_TIE_UP, strict=True):
        code += (magnitude >= edge) if tie_up else (magnitude > edge)
    return code | (torch.signbit(x).to(torch.uint8) << 3)


def e2m1_decode(code: Tensor) -> Tensor:
    """e2m1 codes 0..15 to float32."""
    table = torch.tensor(E2M1_VALUES + tuple(-v for v in E2M1_VALUES), device=code.device)
    return table[code.long()]


def pack_nibbles(code: Tensor) -> Tensor:
    """Codes [..., n] to int8 [..., n/2]; the low nibble holds the even element."""
    pairs = code.unflatten(-1, (-1, 2))
    return (pairs[..., 0] | (pairs[..., 1] << 4)).view(torch.int8)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """int8 [..., n/2] to codes uint8 [..., n]."""
    byte = packed.view(torch.uint8)
    return torch.stack((byte & 0xF, byte >> 4), dim=-1).flatten(-2)


def _blocks(x: Tensor, block_size: int) -> Tensor:
    """Last dim split into blocks of block_size; a short last block is padded with zeros."""
    pad = -x.shape[-1] % block_size
    return torch.nn.functional.pad(x, (0, pad)).unflatten(-1, (-1, block_size))


def _quantise_blocks(x: Tensor, block_size: int, top: float, floor: float) -> tuple[Tensor, Tensor]:
    """Blocks scaled into +-top (float32 [..., blocks, block_size]) and the integer exponents of their scales."""
    blocks = _blocks(x.float().contiguous(), block_size)
    amax = blocks.abs().amax(-1).clamp_min(floor)
    exponent = ceil_log2(amax * (1.0 / top)).clamp_max(127)  # infinity and NaN: the largest scale that ue8m0 has
    scaled = (blocks * exp2_int(-exponent).unsqueeze(-1)).clamp(-top, top)
    return scaled, exponent


def act_quant(x: Tensor, block_size: int = 128) -> tuple[Tensor, Tensor]:
    """FP8 quantiser, see v4npu.ops.act_quant."""
    if derivatives.has_tangent(x):
        raise NotImplementedError("v4npu.act_quant: float8 holds no tangents; exact numerics quantise no activation")
    scaled, exponent = _quantise_blocks(x, block_size, FP8_MAX, FP8_AMAX_FLOOR)
    q = scaled.flatten(-2)[..., : x.shape[-1]].to(torch.float8_e4m3fn)
    return q, float_to_e8m0(exponent)


def fp4_act_quant(x: Tensor, block_size: int = FP4_BLOCK) -> tuple[Tensor, Tensor]:
    """FP4 quantiser, see v4npu.ops.fp4_act_quant."""
    scaled, exponent = _quantise_blocks(x, block_size, FP4_MAX, FP4_AMAX_FLOOR)
    spoilt = scaled.isnan().any(-1)
    scale = float_to_e8m0(exponent).view(torch.uint8).masked_fill(spoilt, 255).view(torch.float8_e8m0fnu)
    return pack_nibbles(e2m1_encode(scaled.flatten(-2)[..., : x.shape[-1]])), scale


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, bit for bit, with the derivative of `x`: so is every quantiser differentiated.

    No autograd.Function, which torch.func does not take within an operator.
    """
    if not derivatives.recorded([x]):
        return rounded
    return rounded - (x.detach() - x).nan_to_num()  # minus zero, which -0.0 survives


def round_fp8(x: Tensor, block_size: int) -> Tensor:
    """x rounded to e4m3 with one ue8m0 scale per block, in x's dtype."""
    q, scale = act_quant(x.detach(), block_size)
    return straight_through(x, dequantise_rows(q, scale, block_size).to(x.dtype))


def round_fp4(x: Tensor, block_size: int = FP4_BLOCK) -> Tensor:
    """x rounded to e2m1 with one ue8m0 scale per block, in x's dtype; a block with a NaN becomes NaN."""
    q, scale = fp4_act_quant(x.detach(), block_size)
    return straight_through(x, dequantise_fp4(q, scale, block_size).to(x.dtype))


def dequantise_rows(q: Tensor, scale: Tensor, block_size: int) -> Tensor:
    """e4m3 [..., n] with a scale per block of the last dim to float32."""
    factor = e8m0_to_float(scale).repeat_interleave(block_size, -1)[..., : q.shape[-1]]
    return q.float() * factor


def quantise_weight_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [..., N, K] to e4m3 and ue8m0 scales [..., ceil(N/128), ceil(K/128)], one per 128x128 block."""
    n, k = weight.shape[-2:]
    pad = torch.nn.functional.pad(weight.float(), (0, -k % WEIGHT_BLOCK, 0, -n % WEIGHT_BLOCK))
    tiles = pad.unflatten(-1, (-1, WEIGHT_BLOCK)).unflatten(-3, (-1, WEIGHT_BLOCK))  # [..., n/128, 128, k/128, 128]
    amax = tiles.abs().amax((-3, -1)).clamp_min(FP8_AMAX_FLOOR)
    exponent = ceil_log2(amax * (1.0 / FP8_MAX))
    scaled = (tiles * exp2_int(-exponent)[..., :, None, :, None]).clamp(-FP8_MAX, FP8_MAX)
    q = scaled.flatten(-4, -3).flatten(-2)[..., :n, :k].to(torch.float8_e4m3fn)
    return q.contiguous(), float_to_e8m0(exponent)


def quantise_weight_fp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [..., N, K] (K a multiple of 32) to packed e2m1 int8 [..., N, K/2] and ue8m0 scales [..., N, K/32]."""
    if weight.shape[-1] % FP4_BLOCK:
        raise ValueError(f"weight must have a last dimension that is a multiple of 32, got {list(weight.shape)}")
    return fp4_act_quant(weight, FP4_BLOCK)


def dequantise_fp8(q: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """e4m3 [..., N, K] with 128x128 block scales to `dtype` (exact in float32, float64 and bfloat16)."""
    n, k = q.shape[-2:]
    factor = e8m0_to_float(scale).repeat_interleave(WEIGHT_BLOCK, -2)[..., :n, :].to(dtype)
    return q.to(dtype) * factor.repeat_interleave(WEIGHT_BLOCK, -1)[..., :k]


def dequantise_fp4(
    packed: Tensor, scale: Tensor, block_size: int = FP4_BLOCK, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Packed e2m1 int8 [..., n/2] with a scale per block_size elements to `dtype` (exact as above)."""
    values = e2m1_decode(unpack_nibbles(packed)).to(dtype)
    factor = e8m0_to_float(scale).to(dtype).repeat_interleave(block_size, -1)
    return values * factor[..., : values.shape[-1]]


def dequantise_weight(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A weight of any stored format as a plain matrix: float as it is, e4m3 or packed FP4 (int8) with its scale."""
    if weight.dtype == torch.float8_e4m3fn and scale is not None:
        return dequantise_fp8(weight, scale, dtype)
    if weight.dtype == torch.int8 and scale is not None:
        return dequantise_fp4(weight, scale, dtype=dtype)
    return weight.to(dtype)
