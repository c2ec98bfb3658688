"""moe_experts on the emulated GPU: every format and layout, lists without reading anything on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.reference.formats import act_quant
from v4npu.testing.cases import as_halves
from v4npu.testing.cases import experts_problem as problem
from v4npu.testing.cuda import FLOAT32_ON_TENSOR_CORES, EmulatedGpu

ROOT = Path(__file__).parents[2]
BF16, FP32 = torch.bfloat16, torch.float32


def assert_close(got: Tensor, args: tuple, ratio: float = 1.5) -> None:
    wide = tuple(a.double() if isinstance(a, Tensor) and a.dtype in (BF16, FP32) else a for a in args)
    exact, naive = reference.moe_experts(*wide), reference.moe_experts(*args)
    largest = float(exact.abs().max())
    allowed = ratio * float((naive - exact).abs().max()) + torch.finfo(args[0].dtype).eps / 2 * largest
    assert float((got - exact).abs().max()) <= allowed


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("kind", ["bf16", "fp8", "fp4"])
def test_few_tokens(gpu: EmulatedGpu, kind: str, official: bool) -> None:
    args = (*problem(9, 7, kind), 10.0, official)
    (got,) = gpu.run("moe_experts", args)
    names = [name for name, *_ in gpu.launches()]
    quantises = official and kind != "bf16"
    assert [n.rsplit("_", 1)[1] for n in names if "_up_" in n] == ["cluster" if quantises else "split"]
    assert names.count("act_quant_bf16") == int(quantises) and any(n.endswith("_split") for n in names)
    assert_close(got, args)
    assert torch.equal(gpu.run("moe_experts", (*args, args[0]))[0], (got + args[0].float()).to(BF16))
    x, indices, weights, w1, s1, w3, s3, *rest = args
    apart = as_halves(w1, w3)
    beside = torch.empty(w3.numel() + 1, dtype=w3.dtype)[1:].view(w3.shape).copy_(w3)  # at no multiple of 16 bytes
    for one, other in (apart, (w1, beside)):
        assert torch.equal(gpu.run("moe_experts", (x, indices, weights, one, s1, other, s3, *rest))[0], got)


FLOAT32 = [("fp8", False), ("fp8", True), ("fp4", False), ("fp4", True), ("fp32", True), ("bf16", False)]


@pytest.mark.parametrize("kind,official", FLOAT32)
def test_float32(gpu: EmulatedGpu, kind: str, official: bool) -> None:
    args = (*problem(60, 3, kind, topk=2, dtype=FP32), 10.0, official)
    if kind == "bf16":
        args = (*args[:3], *(a.to(BF16) if isinstance(a, Tensor) else a for a in args[3:]))
    (got,) = gpu.run("moe_experts", args)
    names = [name for name, *_ in gpu.launches()]
    assert sum(n.endswith("_split_fp32") for n in names) == 2
    assert names.count("act_quant_fp32") == 2 * (official and kind in ("fp8", "fp4"))
    assert_close(got, args, 1.5 * 2 * FLOAT32_ON_TENSOR_CORES)  # two products


BEFORE_CLUSTERS = """
import sys, torch
from pathlib import Path
from v4npu.testing.cuda import GPUS, EmulatedGpu
gpu, (folder, *names) = EmulatedGpu(Path(sys.argv[1]), GPUS["A100"]), sys.argv[2:]
for name in names:
    args = torch.load(Path(folder) / name, weights_only=True)
    torch.save(gpu.run("moe_experts", args)[0], Path(folder) / f"{name}.out")
    found = [n for n, *_ in gpu.launches()]
    assert any("_up_" in n and n.endswith("_split") for n in found) and found.count("act_quant_bf16") == 2, found
"""


def test_before_sm_90_act_quant_gives_the_bits_of_clusters(gpu: EmulatedGpu, tmp_path: Path) -> None:
    """Widths with a last tile of rows that is not whole, and a last cluster that is not."""
    want = {}
    for kind, width in (("fp8", 136), ("fp4", 160), ("fp4", 256)):
        x, *rest = problem(5, 7, kind, width=width)
        x[3, 7] = torch.nan
        torch.save((x, *rest, 10.0, True), tmp_path / f"{kind}{width}")
        (want[f"{kind}{width}"],) = gpu.run("moe_experts", (x, *rest, 10.0, True))
        assert any(name.endswith("_cluster") for name, *_ in gpu.launches())
    command = [sys.executable, "-c", BEFORE_CLUSTERS, str(gpu.cache), str(tmp_path), *want]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, out in want.items():
        before = torch.load(tmp_path / f"{name}.out", weights_only=True)
        assert torch.equal(before.view(torch.int32), out.view(torch.int32))


# Wide and narrow layouts quantise in the first product's epilogue, and so do clusters of the split one.
@pytest.mark.parametrize("layout,tokens,experts", [("wide", 190, 5), ("narrow", 45, 133)])
@pytest.mark.parametrize("kind,official", [("bf16", False), ("fp8", True), ("fp4", True), ("fp4", False)])
def test_many_tokens_have_the_bits_of_few(
    gpu: EmulatedGpu, kind: str, official: bool, layout: str, tokens: int, experts: int
) -> None:
    x, indices, weights, *matrices = problem(tokens, experts, kind)
    x[3, 7] = torch.nan
    (many,) = gpu.run("moe_experts", (x, indices, weights, *matrices, 10.0, official))
    names = [name for name, *_ in gpu.launches()]
    expected = layout if layout == "wide" or official else "split"
    assert [n.rsplit("_", 1)[1] for n in names if "_up_" in n or "_down_" in n] == [expected] * 2
    assert names.count("act_quant_bf16") == int(official)
    clean = torch.arange(tokens) != 3
    args = (x[clean], indices[clean], weights[clean], *matrices, 10.0, official)
    assert_close(many[clean], args)
    assert many[3].isnan().all()
    for lo, hi in ((0, 4), (tokens // 2, tokens // 2 + 7), (tokens - 1, tokens)):
        few = (x[lo:hi], indices[lo:hi], weights[lo:hi], *matrices, 10.0, official)
        same = gpu.run("moe_experts", few)[0].nan_to_num(nan=7e30)
        assert torch.equal(same, many[lo:hi].nan_to_num(nan=7e30))
        ends = {name.rsplit("_", 1)[1] for name, *_ in gpu.launches()}
        assert "split" in ends and ("cluster" in ends) == (official and kind != "bf16")


def test_every_barrier_of_a_quantising_layout_is_missed(gpu: EmulatedGpu) -> None:
    args = (*problem(190, 5, "fp8"), 10.0, True)
    gpu.run("moe_experts", args)
    barriers = [b for b in gpu.barriers() if b.startswith("moe_experts_kernel")]
    assert len(barriers) == 5
    for barrier in barriers:
        with pytest.raises(RuntimeError, match="race: "):
            gpu.run("moe_experts", args, ignored_barrier=barrier)


@pytest.mark.parametrize("tokens", [3, 530])
def test_one_expert_has_the_bits_of_the_linears_of_a_shared_expert(gpu: EmulatedGpu, tokens: int) -> None:
    x, indices, weights, w1, s1, w3, s3, w2, s2 = problem(tokens, 1, "fp8", topk=1)
    everyone = (indices.zero_(), weights.fill_(1), w1, s1, w3, s3, w2, s2, 10.0, True)
    (routed,) = gpu.run("moe_experts", (x, *everyone))
    assert any(name.endswith("_wide" if tokens > 500 else "_split") for name, *_ in gpu.launches())
    a, u = (gpu.run("fp8_linear", (*act_quant(x, 128), w[0], s[0], BF16))[0] for w, s in ((w1, s1), (w3, s3)))
    (hidden,) = gpu.run("swiglu", (a, u, None, 10.0))
    (shared,) = gpu.run("fp8_linear", (*act_quant(hidden, 128), w2[0], s2[0], BF16))
    assert torch.equal(routed.to(BF16), shared)


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


def test_no_choices_sum_to_zero(gpu: EmulatedGpu) -> None:
    x, indices, weights, *matrices = problem(6, 5, "fp4")
    (got,) = gpu.run("moe_experts", (x, indices[:, :0], weights[:, :0], *matrices, 10.0, True))
    assert got.shape == x.shape and not got.any()


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
@pytest.mark.parametrize("quantises", [False, True])
@pytest.mark.parametrize("float32", [False, True])
def test_a_plan_has_tiles_for_the_worst_case(
    invented: _C.DeviceCaps, float32: bool, quantises: bool, assignments: int, experts: int
) -> None:
    plan = _C.plan_gpu_experts(assignments, experts, 2048, float32, quantises, invented)
    # one assignment for each expert but one, which has the rest
    ones = min(experts, assignments) - 1
    assert ones + -(-(assignments - ones) // plan.tile_tokens) <= plan.max_tiles
    # as many as can be one over a full tile
    over = min(experts, assignments // (plan.tile_tokens + 1))
    assert 2 * over <= plan.max_tiles
    assert plan.max_tiles <= experts + assignments // plan.tile_tokens
    assert plan.layout == "split" or not float32
    assert plan.layout != "narrow" or quantises
    may_cluster = quantises and not float32 and invented.name in ("sm_90", "sm_100")
    assert plan.clusters == (plan.layout == "split" and may_cluster)
