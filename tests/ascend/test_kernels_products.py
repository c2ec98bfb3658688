"""Kernels of matrix products, on the emulated chips, against the reference."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, normal

from v4npu import reference
from v4npu.reference.formats import dequantise_rows, dequantise_weight, quantise_weight_fp4, quantise_weight_fp8
from v4npu.testing.compare import complaint
from v4npu.testing.tolerances import ERROR_RATIO

BF16, FP32, E4M3 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
KINDS = ((FP32, FP32), (BF16, BF16), (BF16, FP32))  # of x and weight, and of out


def assert_good(op, got, args, exact):
    """As close to the float64 result as the error ratio of the operator wants."""
    assert not complaint(got, getattr(reference, op)(*args), exact, ERROR_RATIO[op])


@pytest.mark.parametrize(
    "tokens,rows,k", [(1, 1, 1), (1, 16, 7), (2, 17, 65), (16, 64, 128), (33, 70, 257), (5, 40, 700)]
)
@pytest.mark.parametrize("dtype,out_dtype", KINDS)
@pytest.mark.parametrize("sku", ARCHS)
def test_linear(emulated, sku, dtype, out_dtype, tokens, rows, k):
    x, weight = normal(tokens, k, dtype=dtype), normal(rows, k, dtype=dtype, seed=1)
    got = emulated(sku).linear(x, weight, out_dtype)
    assert_good("linear", got, (x, weight, out_dtype), x.double() @ weight.double().T)


QUANTISE = {"fp8_linear": quantise_weight_fp8, "fp4_linear": quantise_weight_fp4}


def quantised(op, rows, k):
    """A weight, most of whose codes occur, and scales of many sizes."""
    return QUANTISE[op](normal(rows, k, seed=1) * torch.logspace(-3, 2, rows)[:, None])


@pytest.mark.parametrize("tokens,rows,k", [(1, 4, 32), (3, 150, 288), (33, 40, 160), (18, 66, 384)])
@pytest.mark.parametrize("dtype,out_dtype", KINDS)
@pytest.mark.parametrize("op", QUANTISE)
@pytest.mark.parametrize("sku", ARCHS)
def test_quantised_weights(emulated, sku, op, dtype, out_dtype, tokens, rows, k):
    x, (weight, scale) = normal(tokens, k, dtype=dtype), quantised(op, rows, k)
    args = (x, None, weight, scale, out_dtype)
    assert_good(
        op, getattr(emulated(sku), op)(*args), args, x.double() @ dequantise_weight(weight, scale, torch.float64).T
    )


@pytest.mark.parametrize("k", [160, 448])
@pytest.mark.parametrize("out_dtype", [FP32, BF16])
@pytest.mark.parametrize("op", QUANTISE)
@pytest.mark.parametrize("sku", ARCHS)
def test_quantised_operands(emulated, sku, op, out_dtype, k):
    x, (weight, scale) = (
        reference.act_quant(normal(37, k) * torch.logspace(-8, 4, 37)[:, None], 128),
        quantised(op, 150, k),
    )
    args = (*x, weight, scale, out_dtype)
    exact = dequantise_rows(*x, 128).double() @ dequantise_weight(weight, scale, torch.float64).T
    got = getattr(emulated(sku), op)(*args)
    assert_good(op, got, args, exact)
    assert torch.equal(getattr(emulated(sku), op)(x[0][5:6], x[1][5:6], *args[2:]), got[5:6])


@pytest.mark.parametrize("tokens,groups,rows,k", [(1, 1, 16, 8), (20, 3, 50, 70), (2, 2, 16, 32770)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("sku", ARCHS)
def test_grouped_linear(emulated, sku, fp8, dtype, tokens, groups, rows, k):
    if dtype == FP32:
        k = min(k, 65535 // groups)  # what a copy reaches from row to row; bf16 goes in pairs
    x, plain = normal(tokens, groups, k, dtype=dtype), normal(groups * rows, k, dtype=dtype, seed=1)
    weight, scale = quantise_weight_fp8(plain.float()) if fp8 else (plain, None)
    exact = reference.grouped_linear(x.double(), dequantise_weight(weight, scale, torch.float64), None)
    args = (x, weight, scale)
    assert_good("grouped_linear", emulated(sku).grouped_linear(*args), args, exact)


@pytest.mark.parametrize("sku", ARCHS)
def test_every_code_is_expanded_exactly(emulated, sku):
    every, identity = torch.arange(256, dtype=torch.uint8), torch.eye(32)
    fp4, fp8 = every.view(16, 16).view(torch.int8), every.clone().view(8, 32)
    fp8[[3, 7], 31], fp8 = 0, torch.cat((fp8, torch.full((1, 32), 255, dtype=torch.uint8)))  # a NaN spoils its row
    for code in (0, 1, 100, 127, 128, 200, 246, 254, 255):
        scale = torch.full((1, 1), code, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        for op, weight, scales in (("fp4_linear", fp4, scale.repeat(16, 1)), ("fp8_linear", fp8.view(E4M3), scale)):
            args = (identity, None, weight, scales, FP32)
            wanted = getattr(reference, op)(*args)
            torch.testing.assert_close(getattr(emulated(sku), op)(*args), wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("sku", ARCHS)
def test_a_token_gets_the_same_bits_in_every_batch_and_tile(emulated, sku, dtype):
    x, weight = normal(35, 300, dtype=dtype), normal(48, 300, dtype=dtype, seed=1)
    whole = emulated(sku).linear(x, weight, dtype, 128, 256)
    assert torch.equal(emulated(sku).linear(x, weight, dtype, 16, 16), whole)
    for token in (0, 20, 34):
        assert torch.equal(emulated(sku).linear(x[token : token + 1], weight, dtype), whole[token : token + 1])
