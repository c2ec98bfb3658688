"""Kernels of gate, hash_gate and swiglu, on the emulated chips, against the reference."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, FLOATS, assert_close, normal

from v4npu import reference

X_AND_WEIGHT = [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)]


def router(tokens, hidden, experts, dtypes):
    """x and the gate's weight, whose logits are some units wide."""
    weight = 4 * hidden**-0.5 * normal(experts, hidden, seed=1)
    return normal(tokens, hidden, dtype=dtypes[0]), weight.to(dtypes[1])


@pytest.mark.parametrize(
    "tokens,hidden,experts,topk", [(1, 2048, 256, 6), (5, 64, 6, 2), (9, 2050, 33, 8), (3, 10, 1, 1)]
)
@pytest.mark.parametrize("dtypes", X_AND_WEIGHT)
@pytest.mark.parametrize("sku", ARCHS)
def test_gate(emulated, sku, dtypes, tokens, hidden, experts, topk):
    x, weight = router(tokens, hidden, experts, dtypes)
    for bias in (normal(experts, seed=2), None):
        indices, weights = emulated(sku).gate(x, weight, bias, topk, 2.5)
        exact_indices, exact = reference.gate(x.double(), weight, bias, topk, 2.5)
        assert torch.equal(indices, exact_indices)
        assert_close(weights, exact, torch.float32)


@pytest.mark.parametrize("sku", ARCHS)
def test_gate_prefers_the_smaller_index_and_bears_extreme_logits(emulated, sku):
    x, weight = torch.ones(2, 8), torch.zeros(70, 8)
    indices, _ = emulated(sku).gate(x, weight, None, 5, 1.0)
    assert indices.tolist() == [[0, 1, 2, 3, 4]] * 2
    weight[:4, 0] = torch.tensor([100.0, -80.0, 30.0, -60.0])
    indices, weights = emulated(sku).gate(x, weight[:4], None, 4, 1.0)
    exact_indices, exact = reference.gate(x.double(), weight[:4], None, 4, 1.0)
    assert torch.equal(indices, exact_indices)
    assert ((weights.double() - exact).abs() <= 1e-5 * exact + 1e-30).all()


@pytest.mark.parametrize("n", [1, 30, 4096, 9000])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_swiglu(emulated, sku, dtype, n):
    gate, up, weights = 8 * normal(5, n, dtype=dtype), 8 * normal(5, n, dtype=dtype, seed=1), normal(5, seed=2).abs()
    for scale, limit in ((None, 10.0), (weights, 10.0), (weights, 0.0), (None, 0.0)):
        exact = reference.swiglu(gate.double(), up.double(), None if scale is None else scale.double(), limit)
        assert_close(emulated(sku).swiglu(gate, up, scale, limit), exact, dtype)


@pytest.mark.parametrize("limit", [10.0, 0.0])
@pytest.mark.parametrize("sku", ARCHS)
def test_swiglu_of_nan_and_infinity(emulated, sku, limit):
    values = torch.tensor([0.0, 1.0, -3.0, torch.inf, -torch.inf, torch.nan, -torch.nan])
    gate, up = values.repeat_interleave(7)[None], values.repeat(7)[None]
    exact = reference.swiglu(gate.double(), up.double(), None, limit)
    torch.testing.assert_close(emulated(sku).swiglu(gate, up, None, limit).double(), exact, equal_nan=True)


@pytest.mark.parametrize(
    "tokens,hidden,experts,topk", [(1, 2048, 256, 6), (5, 64, 6, 2), (9, 4100, 33, 8), (3, 10, 1, 1)]
)
@pytest.mark.parametrize("dtypes", X_AND_WEIGHT)
@pytest.mark.parametrize("sku", ARCHS)
def test_hash_gate(emulated, sku, dtypes, tokens, hidden, experts, topk):
    x, weight = router(tokens, hidden, experts, dtypes)
    table = torch.stack([torch.randperm(experts, generator=torch.Generator().manual_seed(i))[:topk] for i in range(20)])
    ids = torch.arange(tokens) * 7 % 20
    indices, weights = emulated(sku).hash_gate(x, weight, table, ids, 2.5)
    exact_indices, exact = reference.hash_gate(x.double(), weight, table, ids, 2.5)
    assert torch.equal(indices, exact_indices)
    assert_close(weights, exact, torch.float32)


@pytest.mark.parametrize("sku", ARCHS)
def test_hash_gate_reads_nothing_for_ids_out_of_range(emulated, sku):
    x, weight = normal(5, 8), normal(4, 8, seed=1)
    table, ids = torch.tensor([[1, 2], [3, 4], [-1, 0], [2, 3]]), torch.tensor([0, 1, 2, 4, -1])
    indices, weights = emulated(sku).hash_gate(x, weight, table, ids, 1.0)
    assert indices.tolist() == [[1, 2], [3, 0], [0, 0], [0, 0], [0, 0]]
    assert weights[0].isfinite().all() and weights[1:].isnan().all()
