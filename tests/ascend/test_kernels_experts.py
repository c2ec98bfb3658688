"""Kernels of gate, hash_gate, swiglu and moe_experts, on the emulated chips, against the reference."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, FLOATS, assert_close, normal

from v4npu import reference
from v4npu.testing.cases import as_halves, experts_problem
from v4npu.testing.compare import complaint, oracle_args
from v4npu.testing.tolerances import ERROR_RATIO

X_AND_WEIGHT = [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)]


def router(tokens, hidden, experts, dtypes):
    """x and the gate's weight, whose logits are some units wide."""
    weight = 4 * hidden**-0.5 * normal(experts, hidden, seed=1)
    return normal(tokens, hidden, dtype=dtypes[0]), weight.to(dtypes[1])


@pytest.mark.parametrize(
    "tokens,hidden,experts,topk", [(1, 2048, 256, 6), (5, 64, 6, 2), (9, 2150, 33, 8), (3, 10, 1, 1)]
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


@pytest.mark.parametrize("sku", ARCHS)
def test_gate_takes_a_nan_for_the_largest_and_keeps_it_to_its_token(emulated, sku):
    x, w, bias = normal(20, 40), normal(9, 40, seed=1), normal(9, seed=2)
    clean = emulated(sku).gate(x, w, bias, 3, 1.5)
    x[4, 7] = torch.nan
    indices, weights = emulated(sku).gate(x, w, bias, 3, 1.5)
    others = torch.arange(20) != 4
    assert indices[4].tolist() == [0, 1, 2] and weights[4].isnan().all()
    assert torch.equal(indices[others], clean[0][others]) and torch.equal(weights[others], clean[1][others])
    w[5, 0], w[7, 0] = torch.nan, -torch.nan  # the logits of two experts: they go first, and make every weight NaN
    indices, weights = emulated(sku).gate(x, w, bias, 3, 1.5)
    assert torch.equal(indices, reference.gate(x.double(), w, bias, 3, 1.5)[0]) and weights.isnan().all()


@pytest.mark.parametrize("sku", ARCHS)
def test_gate_of_infinite_logits_and_biases_and_equal_ones(emulated, sku):
    lowest, inf, nan = torch.finfo(torch.float32).min, torch.inf, torch.nan
    x, w = torch.ones(5, 8), torch.zeros(33, 8)
    x[:, 1:] = normal(5, 7)
    w[[4, 30, 17], 0] = 1.0
    infinite = w.clone()
    infinite[[2, 9, 20], 0] = torch.tensor([inf, -inf, inf])
    flat, masked = torch.zeros(33), torch.full((33,), -inf)
    few, bounds, odd = masked.clone(), torch.full((33,), lowest), flat.clone()
    fewer, far = bounds.clone(), torch.full((33,), -4e37)
    few[[30, 3]], fewer[[30, 3]], far[5] = 0.0, 0.0, lowest
    bounds[[5, 8, 31]] = torch.tensor([-inf, -lowest, -inf])
    odd[[1, 6, 7, 32]] = torch.tensor([nan, -inf, inf, inf])
    for weight in (w, infinite):
        for bias in (None, flat, masked, few, torch.full((33,), lowest), fewer, far, bounds, odd):
            for topk in (5, 16):
                indices, weights = emulated(sku).gate(x, weight, bias, topk, 1.5)
                wanted, exact = reference.gate(x.double(), weight, bias, topk, 1.5)
                assert torch.equal(indices, wanted)
                torch.testing.assert_close(weights.double(), exact, rtol=1e-6, atol=0, equal_nan=True)


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
    "tokens,hidden,experts,topk", [(1, 2048, 256, 6), (5, 64, 6, 2), (9, 4200, 33, 8), (3, 10, 1, 1)]
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


def assert_good(got, args):
    exact = reference.moe_experts(*oracle_args("moe_experts", args))
    assert not complaint(got, reference.moe_experts(*args), exact, ERROR_RATIO["moe_experts"])


# A block of 128 rows of an FP8 weight ends within an expert; rows of a tile of 32 x 32 do, and are all of one expert.
@pytest.mark.parametrize("tokens,experts,topk,d,width", [(1, 6, 4, 64, 32), (9, 7, 3, 96, 160), (40, 2, 1, 288, 64)])
@pytest.mark.parametrize("dtype,official", [(torch.float32, False), (torch.bfloat16, True), (torch.float32, True)])
@pytest.mark.parametrize("kind", ["plain", "fp8", "fp4"])
@pytest.mark.parametrize("sku", ARCHS)
def test_moe_experts(emulated, sku, kind, dtype, official, tokens, experts, topk, d, width):
    args = (*experts_problem(tokens, experts, kind, topk, d, width, dtype), 1.0, official)
    got = emulated(sku).moe_experts(*args)
    assert_good(got, args)
    assert torch.equal(emulated(sku).moe_experts(*args, args[0]), (got + args[0].float()).to(dtype))


@pytest.mark.parametrize("kind", ["plain", "fp8", "fp4"])
@pytest.mark.parametrize("sku", ARCHS)
def test_a_token_of_moe_experts_gets_the_same_bits_in_any_batch_and_order_of_its_choices(emulated, sku, kind):
    x, indices, weights, *rest = (*experts_problem(70, 5, kind), 10.0, True)
    x[3, 7] = torch.nan
    indices[60:, 1] = indices[60:, 0]  # one that is named twice counts twice
    got = emulated(sku).moe_experts(x, indices, weights, *rest)
    assert got[3].isnan().all()
    others = torch.arange(70) != 3
    assert_good(got[others], (x[others], indices[others], weights[others], *rest))
    for lo, hi, blocks in ((2, 4, 1), (20, 60, 2), (69, 70, 3)):
        part = [t[lo:hi].flip(1) if lo == 20 and t is not x else t[lo:hi] for t in (x, indices, weights)]
        few = emulated(sku, blocks).moe_experts(*part, *rest)
        assert torch.equal(few.view(torch.int32), got[lo:hi].view(torch.int32))


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1])
@pytest.mark.parametrize("sku", ARCHS)
def test_an_expert_out_of_range_makes_its_token_nan_and_no_other(emulated, sku, bad):
    x, indices, weights, *rest = (*experts_problem(6, 5, "fp4"), 10.0, True)
    clean = emulated(sku).moe_experts(x, indices, weights, *rest)
    indices[2, 1] = bad
    got, others = emulated(sku).moe_experts(x, indices, weights, *rest), torch.arange(6) != 2
    assert got[2].isnan().all() and torch.equal(got[others], clean[others])


@pytest.mark.parametrize("kind", ["plain", "fp4"])
@pytest.mark.parametrize("sku", ARCHS)
def test_moe_experts_of_matrices_that_lie_apart(emulated, sku, kind):
    x, indices, weights, w1, s1, w3, s3, *rest = (*experts_problem(5, 6, kind), 10.0, False)
    want = emulated(sku).moe_experts(x, indices, weights, w1, s1, w3, s3, *rest)
    w1, w3 = as_halves(w1, w3)
    assert torch.equal(emulated(sku).moe_experts(x, indices, weights, w1, s1, w3, s3, *rest), want)
