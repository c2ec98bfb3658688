"""Kernels of matrix products, on the emulated chips, against the reference."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, normal

from v4npu import reference
from v4npu.testing.compare import complaint
from v4npu.testing.tolerances import ERROR_RATIO

BF16, FP32 = torch.bfloat16, torch.float32
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


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("sku", ARCHS)
def test_a_token_gets_the_same_bits_in_every_batch_and_tile(emulated, sku, dtype):
    x, weight = normal(35, 300, dtype=dtype), normal(48, 300, dtype=dtype, seed=1)
    whole = emulated(sku).linear(x, weight, dtype, 128, 256)
    assert torch.equal(emulated(sku).linear(x, weight, dtype, 16, 16), whole)
    for token in (0, 20, 34):
        assert torch.equal(emulated(sku).linear(x[token : token + 1], weight, dtype), whole[token : token + 1])
