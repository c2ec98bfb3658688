"""moe_experts on the emulated GPU: every format and layout, lists without reading anything on the host."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.reference.formats import quantize_weight_fp4, quantize_weight_fp8
from v4npu.testing.cases import Draw
from v4npu.testing.cuda import EmulatedGpu

BF16, FP32 = torch.bfloat16, torch.float32


def problem(tokens: int, experts: int, kind: str, topk: int = 3, d: int = 96, width: int = 160):
    """x, indices, weights and the three matrices with their scales."""
    draw = Draw(FP32, tokens + experts)

    def matrix(rows: int, k: int) -> tuple[Tensor, Tensor | None]:
        w = draw.normal(experts, rows, k) * k**-0.5
        return (
            (w.to(BF16), None) if kind == "bf16" else {"fp8": quantize_weight_fp8, "fp4": quantize_weight_fp4}[kind](w)
        )

    indices = draw.distinct(experts, tokens, topk)
    weights = draw.normal(tokens, topk).abs()
    return (draw.normal(tokens, d).to(BF16), indices, weights, *matrix(width, d), *matrix(width, d), *matrix(d, width))


def assert_close(got: Tensor, args: tuple) -> None:
    wide = tuple(a.double() if isinstance(a, Tensor) and a.dtype in (BF16, FP32) else a for a in args)
    exact, naive = reference.moe_experts(*wide), reference.moe_experts(*args)
    largest = float(exact.abs().max())
    allowed = 1.5 * float((naive - exact).abs().max()) + torch.finfo(BF16).eps / 2 * largest
    assert float((got - exact).abs().max()) <= allowed


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("kind", ["bf16", "fp8", "fp4"])
def test_few_tokens(gpu: EmulatedGpu, kind: str, official: bool) -> None:
    args = (*problem(9, 7, kind), 10.0, official)
    (got,) = gpu.run("moe_experts", args)
    assert any(name.endswith("_split") for name, *_ in gpu.launches())
    assert_close(got, args)


@pytest.mark.parametrize("kind,official", [("bf16", False), ("fp8", True), ("fp4", True), ("fp4", False)])
def test_many_tokens_have_the_bits_of_few(gpu: EmulatedGpu, kind: str, official: bool) -> None:
    x, indices, weights, *matrices = problem(190, 5, kind)
    (many,) = gpu.run("moe_experts", (x, indices, weights, *matrices, 10.0, official))
    assert any(name.endswith("_wide") for name, *_ in gpu.launches())
    assert_close(many, (x, indices, weights, *matrices, 10.0, official))
    for lo, hi in ((0, 1), (70, 77), (189, 190)):
        few = (x[lo:hi], indices[lo:hi], weights[lo:hi], *matrices, 10.0, official)
        assert torch.equal(gpu.run("moe_experts", few)[0], many[lo:hi])
        assert any(name.endswith("_split") for name, *_ in gpu.launches())


def test_the_order_of_the_choices_and_repeated_experts(gpu: EmulatedGpu) -> None:
    x, indices, weights, *matrices = problem(6, 5, "fp4")
    (got,) = gpu.run("moe_experts", (x, indices, weights, *matrices, 10.0, True))
    (turned,) = gpu.run("moe_experts", (x, indices.flip(1), weights.flip(1), *matrices, 10.0, True))
    assert torch.equal(got, turned)
    indices[:, 1] = indices[:, 0]
    args = (x, indices, weights, *matrices, 10.0, True)
    assert_close(gpu.run("moe_experts", args)[0], args)


def test_all_tokens_at_one_expert(gpu: EmulatedGpu) -> None:
    x, indices, weights, *matrices = problem(40, 4, "fp4", topk=1)
    args = (x, torch.full_like(indices, 3), weights, *matrices, 10.0, True)
    assert_close(gpu.run("moe_experts", args)[0], args)


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1])
def test_an_expert_out_of_range_makes_its_token_nan_and_no_other(gpu: EmulatedGpu, bad: int) -> None:
    x, indices, weights, *matrices = problem(6, 5, "fp4")
    (clean,) = gpu.run("moe_experts", (x, indices, weights, *matrices, 10.0, True))
    indices[2, 1] = bad
    (got,) = gpu.run("moe_experts", (x, indices, weights, *matrices, 10.0, True))
    others = torch.arange(6) != 2
    assert got[2].isnan().all() and torch.equal(got[others], clean[others])


@pytest.mark.parametrize("assignments", [1, 6, 768, 24576])
@pytest.mark.parametrize("experts", [1, 32, 256, 384])
def test_a_plan_has_tiles_for_the_worst_case(invented: _C.DeviceCaps, assignments: int, experts: int) -> None:
    plan = _C.plan_gpu_experts(assignments, experts, invented)
    # one assignment for each expert but one, which has the rest
    ones = min(experts, assignments) - 1
    assert ones + -(-(assignments - ones) // plan.tile_tokens) <= plan.max_tiles
    # as many as can be one over a full tile
    over = min(experts, assignments // (plan.tile_tokens + 1))
    assert 2 * over <= plan.max_tiles
    assert plan.max_tiles <= experts + assignments // plan.tile_tokens
