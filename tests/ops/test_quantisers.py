"""act_quant and fp4_act_quant, byte for byte against a scalar model of the formats written from their definitions."""

import math

import pytest
import torch

from v4npu import ops, reference
from v4npu.reference import formats

ALL_BF16 = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
FINITE = ALL_BF16[ALL_BF16.float().isfinite()]


def e4m3_values():
    """All finite non-negative e4m3 values, by code."""
    return [
        (m / 8) * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)
        for e in range(16)
        for m in range(8)
        if (e, m) != (15, 7)
    ]


def nearest_code(magnitudes, values):
    """Index of the nearest value of each magnitude (float64), ties to the even code."""
    table = torch.tensor(values, dtype=torch.float64)
    high = torch.searchsorted(table, magnitudes).clamp(max=len(values) - 1)
    low = (high - 1).clamp_min(0)
    up, down = table[high] - magnitudes, magnitudes - table[low]
    return torch.where((down < up) | ((down == up) & (low % 2 == 0)), low, high)


@pytest.mark.parametrize("amax_exponent", [-30, -9, -3, 0, 5, 17])
@pytest.mark.parametrize("name,top,floor,values", [
    ("act_quant", 448.0, 1e-4, e4m3_values()),
    ("fp4_act_quant", 6.0, 6 * 2.0**-126, list(formats.E2M1_VALUES)),
])  # fmt: skip
def test_every_bfloat16_input(amax_exponent, name, top, floor, values, device):
    amax = torch.tensor(1.171875 * 2.0**amax_exponent).bfloat16()
    x = FINITE[FINITE.abs() <= amax]
    x = torch.cat((x, x.new_zeros(-len(x) % 31))).view(-1, 31)
    x = torch.cat((x, amax.expand(len(x), 1)), dim=1)  # every block of 32 has this amax
    q, scale = (r.cpu() for r in getattr(ops, name)(x.to(device), 32))
    exponent = math.ceil(math.log2(max(float(amax), floor) / top))
    assert set(scale.view(torch.uint8).flatten().tolist()) == {exponent + 127}
    code = nearest_code((x.double().abs() / 2.0**exponent).clamp(max=top), values)
    if name == "act_quant":
        expected = code + 128 * torch.signbit(x)
        assert torch.equal(q.view(torch.uint8).long(), expected)
    else:
        expected = code + 8 * torch.signbit(x)
        assert torch.equal(formats.unpack_nibbles(q).long(), expected)


def test_scale_examples_of_the_specification():
    for amax, exponent in ((1.0, -8), (448.0, 0), (450.0, 1), (0.0, -22)):
        _, scale = ops.act_quant(torch.full((1, 128), amax))
        assert scale.view(torch.uint8).item() - 127 == exponent


def test_ties_of_e2m1_go_to_the_even_code():
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] + [0.0] * 24)
    q, scale = ops.fp4_act_quant(x)
    assert formats.dequantise_fp4(q, scale).tolist()[:8] == [0, 1, 1, 2, 2, 4, 4, 6]


def test_nibble_order_and_round_trip():
    code = torch.randint(16, (5, 64), dtype=torch.uint8)
    packed = formats.pack_nibbles(code)
    assert torch.equal(packed.view(torch.uint8) & 15, code[:, ::2])
    assert torch.equal(formats.unpack_nibbles(packed), code)
    scale = torch.randint(100, 150, (5, 2), dtype=torch.uint8).view(torch.float8_e8m0fnu)
    values = formats.dequantise_fp4(packed, scale)
    again, again_scale = ops.fp4_act_quant(values)
    assert torch.equal(formats.dequantise_fp4(again, again_scale), values)


@pytest.mark.parametrize("shape", [(128, 128), (200, 300), (1, 7), (3, 130, 64)])
def test_fp8_weight_round_trip(shape):
    w = torch.randn(shape)
    q, scale = formats.quantise_weight_fp8(w)
    assert scale.shape[-2:] == (-(-shape[-2] // 128), -(-shape[-1] // 128))
    back = formats.dequantise_fp8(q, scale)
    assert ((back - w).abs() <= w.abs() * 2.0**-4 + 2.0**-9 * 2.0**-5).all()
    again = formats.quantise_weight_fp8(back)
    assert torch.equal(formats.dequantise_fp8(*again), back)
    assert torch.equal(formats.dequantise_fp8(q, scale, torch.bfloat16).float(), back)


def test_a_nan_is_the_scale_of_its_fp4_block():
    x = torch.ones(3, 96)
    x[1, 40] = torch.nan
    for quantise in (ops.fp4_act_quant, reference.fp4_act_quant):
        q, scale = quantise(x)
        assert scale.float().isnan().nonzero().tolist() == [[1, 1]]
        assert torch.equal(q[[0, 2]], quantise(x[[0, 2]])[0])
        assert formats.dequantise_fp4(q, scale).isnan().nonzero()[:, 1].tolist() == list(range(32, 64))
