"""Products on tensor cores, emulated: exact conversions, both layouts bit for bit, sizes of the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.reference.formats import act_quant, quantise_weight_fp4, quantise_weight_fp8
from v4npu.testing.cases import Draw
from v4npu.testing.compare import complaint, same_nonfinite
from v4npu.testing.cuda import FLOAT32_ON_TENSOR_CORES, EmulatedGpu
from v4npu.testing.tolerances import ERROR_RATIO

BF16, FP32 = torch.bfloat16, torch.float32
FORMATS = ["bf16", "fp8", "fp4"]


def weight_of(kind: str, w: Tensor) -> tuple[str, tuple[Tensor, ...]]:
    """The operator of a weight and the weight in its format."""
    if kind == "bf16":
        return "linear", (w.to(BF16),)
    return (kind + "_linear", quantise_weight_fp8(w) if kind == "fp8" else quantise_weight_fp4(w))


def arguments(kind: str, x: Tensor, quantised: bool, w: tuple[Tensor, ...], out: torch.dtype) -> tuple:
    if kind == "bf16":
        return (x, *w, out)
    return (*(act_quant(x, 128) if quantised else (x, None)), *w, out)


KINDS = [(kind, x, False) for kind in FORMATS for x in (BF16, FP32)] + [("fp8", BF16, True), ("fp4", BF16, True)]


@pytest.mark.parametrize("kind,x_dtype,quantised", KINDS)
def test_many_tokens_and_few_have_the_same_bits(
    gpu: EmulatedGpu, kind: str, x_dtype: torch.dtype, quantised: bool
) -> None:
    draw = Draw(FP32, 1)
    rows, k = 16_900, 160
    x = draw.normal(40, k).to(x_dtype)
    op, w = weight_of(kind, draw.normal(rows, k))
    few_rows = tuple(t[:128] if t.shape[0] == rows else t[:1] for t in w)
    (many,) = gpu.run(op, arguments(kind, x, quantised, w, FP32))
    assert gpu.launches()[0][0].endswith("_wide") and gpu.launches()[0][1:4] == ["134", "1", "1"]
    (few,) = gpu.run(op, arguments(kind, x[5:12], quantised, few_rows, FP32))
    assert gpu.launches()[0][0].endswith("_split") and gpu.launches()[0][1:4] == ["8", "1", "1"]
    assert torch.equal(many[5:12, :128], few)
    exact = getattr(reference, op)(*arguments(kind, x.double(), False, w, torch.float64))
    if not quantised:
        assert (many - exact).abs().max() < 2e-5 * exact.abs().max()


@pytest.mark.parametrize("rows", [3, 16_900])
def test_an_infinite_weight_is_infinite_times_float32(gpu: EmulatedGpu, rows: int) -> None:
    x, weight = torch.tensor([[1.0, 3.0]] * 20), torch.ones(rows, 2, dtype=BF16)
    weight[1, 0], weight[2, 1] = torch.inf, torch.nan
    (got,) = gpu.run("linear", (x, weight, FP32))
    assert got[:, 1].isposinf().all() and got[:, 2].isnan().all() and (got[:, 0] == 4).all()


def test_scales_that_make_up_for_each_other(gpu: EmulatedGpu) -> None:
    ones = torch.ones(3, 128).to(torch.float8_e4m3fn)
    for up, down in ((250, 5), (5, 250)):
        scales = [torch.full((n, 1), s, dtype=torch.uint8).view(torch.float8_e8m0fnu) for n, s in ((3, up), (1, down))]
        (got,) = gpu.run("fp8_linear", (ones, scales[0], ones, scales[1], FP32))
        assert got.tolist() == [[256.0] * 3] * 3


@pytest.mark.parametrize("k", [2048, 4096 + 32])
@pytest.mark.parametrize("kind", FORMATS)
def test_rows_of_the_models_length(gpu: EmulatedGpu, kind: str, k: int) -> None:
    draw = Draw(FP32, 2)
    op, w = weight_of(kind, draw.normal(33, k) * k**-0.5)
    x = draw.normal(3, k).to(BF16)
    args = arguments(kind, x, True, w, BF16)
    (got,) = gpu.run(op, args)
    wide = (args[0] if kind != "bf16" else x.double(), *args[1:-1], torch.float64)
    exact = getattr(reference, op)(*(a.double() if a is w[0] and kind == "bf16" else a for a in wide))
    naive = getattr(reference, op)(*args)
    error, allowed = (got.double() - exact).abs().max(), (naive.double() - exact).abs().max()
    assert error <= 1.5 * allowed + 2.0**-9 * exact.abs().max()


def test_every_e4m3_code_is_widened_exactly(gpu: EmulatedGpu) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)
    x = torch.eye(16, dtype=BF16)
    for exponent in (1, 120, 127, 130, 230):
        scale = torch.full((1, 1), exponent, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        weight = codes.view(16, 16)  # out[t, n] = weight[n, t], unless its row has a NaN
        finite = torch.where(weight.float().isnan(), torch.zeros(()), weight.float())
        (got,) = gpu.run("fp8_linear", (x, None, finite.to(torch.float8_e4m3fn), scale, FP32))
        assert torch.equal(got, (finite.double() * 2.0 ** (exponent - 127)).float().T)
        (got,) = gpu.run("fp8_linear", (x, None, weight, scale, FP32))
        assert torch.equal(got.isnan().all(0), weight.float().isnan().any(1))


def test_every_e2m1_code_with_every_scale_is_widened_exactly(gpu: EmulatedGpu) -> None:
    # Row s has scale s, and the 16 codes twice.
    packed = (torch.arange(8) * 2 + (torch.arange(8) * 2 + 1) * 16).to(torch.uint8).repeat(2)
    weight = packed.expand(256, 16).contiguous().view(torch.int8)
    scale = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(256, 1).view(torch.float8_e8m0fnu)
    (got,) = gpu.run("fp4_linear", (torch.eye(32, dtype=BF16), None, weight, scale, FP32))
    want = reference.formats.dequantise_fp4(weight, scale, dtype=torch.float64)
    assert got[:, 255].isnan().all()
    largest = torch.finfo(BF16).max  # the products are bfloat16: beyond lies infinity, and infinity times 0 is NaN
    for row in range(255):
        values = want[row]
        if values.abs().max() <= largest:
            assert torch.equal(got[:, row].double(), values), row
        else:
            assert not got[:, row].isfinite().all(), row


def test_a_float32_is_three_bfloat16(gpu: EmulatedGpu) -> None:
    draw = Draw(FP32, 3)
    x = draw.normal(16, 16) * torch.tensor(10.0) ** torch.linspace(-25, 25, 16)
    x[0, 0], x[1, 1] = torch.inf, -torch.inf
    (got,) = gpu.run("linear", (x, torch.eye(16, dtype=BF16), FP32))
    clean = torch.ones(16, dtype=torch.bool)
    clean[:2] = False
    assert torch.equal(got[clean], x[clean])
    assert got[0, 0] == torch.inf and got[1, 1] == -torch.inf


@pytest.mark.parametrize("tokens,k", [(5, 126), (530, 40), (2, 1500)])
def test_float32_weights_of_groups(gpu: EmulatedGpu, tokens: int, k: int) -> None:
    draw = Draw(FP32, 4)
    x, weight = draw.normal(tokens, 3, k), draw.normal(3 * 47, k)
    (got,) = gpu.run("grouped_linear", (x, weight, None))
    assert [name for name, *_ in gpu.launches()] == ["grouped_linear_fp32_fp32_split"]
    naive = reference.grouped_linear(x, weight, None)
    exact = reference.grouped_linear(x.double(), weight.double(), None)
    assert not complaint(got, naive, exact, FLOAT32_ON_TENSOR_CORES * ERROR_RATIO["grouped_linear"])
    (alone,) = gpu.run("grouped_linear", (x[1:2], weight, None))
    assert torch.equal(alone, got[1:2])
    x[0, 0, 0], x[1, 1, 1], weight[60, 0] = torch.inf, torch.nan, -torch.inf
    (got,) = gpu.run("grouped_linear", (x, weight, None))
    assert same_nonfinite(got, reference.grouped_linear(x, weight, None))
    gpu.run("grouped_linear", (x.to(BF16), weight, None))  # would round the weight
    assert not gpu.launches()


# A stage of few tokens at least, of many at most, and what the kernels have besides (backends/cuda/device/shape.h)
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("stage,weights,other", [
    (12_800, 4608, 8832), (16 << 10, 8 << 10, 8832), (17_408, 9216, 17_536), (32 << 10, 16 << 10, 8832),
    (40 << 10, 32 << 10, 9 << 10), (17_408, 17_408, 33_024),
])  # fmt: skip
def test_a_plan_has_the_stages_that_keep_memory_busy_or_find_room(
    invented: _C.DeviceCaps, stage: int, weights: int, other: int, blocks: int
) -> None:
    stages = _C.plan_gpu_stages(stage, weights, other, blocks, invented)
    enough = min(8, max(4, 1 + -(-43_000 // (weights * blocks))))  # the rest of what is on its way
    assert 2 <= stages <= enough
    assert stages * stage + other <= invented.shared_bytes
    if stages > 2:
        assert blocks * (stages * stage + other + 1024) <= invented.shared_bytes + 1024
    if stages < enough:
        assert blocks * ((stages + 1) * stage + other + 1024) > invented.shared_bytes + 1024


@pytest.mark.parametrize("tokens", [1, 16, 17, 128, 4096])
@pytest.mark.parametrize("rows,groups", [(1, 1), (2048, 1), (4096, 8), (129280, 1)])
def test_a_plan_covers_the_product_and_fills_the_device_when_it_is_wide(
    invented: _C.DeviceCaps, tokens: int, rows: int, groups: int
) -> None:
    plan = _C.plan_gpu_gemm(tokens, rows, groups, True, invented)
    high, wide = (256, 32) if plan.wide else (16, 16)
    assert (plan.row_tiles - 1) * high < rows <= plan.row_tiles * high
    assert (plan.token_tiles - 1) * wide < tokens <= plan.token_tiles * wide
    if plan.wide:
        assert plan.row_tiles * plan.token_tiles * groups >= invented.num_cores
    else:
        assert -(-rows // 256) * -(-tokens // 32) * groups < invented.num_cores
    assert not _C.plan_gpu_gemm(tokens, rows, groups, False, invented).wide
