"""The products beyond test_cpu_kernels.py: quantised activations, every format of experts, tiles, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from v4npu import ops, reference
from v4npu.reference.formats import act_quant, quantise_weight_fp4, quantise_weight_fp8
from v4npu.testing.cases import Draw, as_halves
from v4npu.testing.compare import bits, complaint
from v4npu.testing.tolerances import ERROR_RATIO

BF16, F32 = torch.bfloat16, torch.float32
TOKENS = 145  # nine tiles of 16 and one token; 1, 15, 16, 17, 32, 33, 96, 128, 129 of them are asked for again
FORMATS = ("fp4", "fp8", "plain")


pytestmark = pytest.mark.usefixtures("isa")


def weight(kind: str, w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    if kind == "plain":
        return w.to(dtype), None
    return quantise_weight_fp4(w) if kind == "fp4" else quantise_weight_fp8(w)


def near(op: str, got: Tensor, naive: Tensor, oracle: Tensor) -> None:
    assert not complaint(got, naive, oracle, ERROR_RATIO[op])


def same_alone(compute: Any, whole: Tensor) -> None:
    """compute(n) serves the first n tokens; a slice starts at another place of a tile."""
    for n in (1, 15, 16, 17, 32, 33, 96, 128, 129):
        assert torch.equal(bits(compute(slice(0, n))), bits(whole[:n]))
    for chosen in (slice(40, 41), slice(5, 90), torch.arange(TOKENS).flip(0)):
        assert torch.equal(bits(compute(chosen)), bits(whole[chosen]))


@pytest.mark.parametrize("out", [F32, BF16], ids=str)
@pytest.mark.parametrize("k", [32, 160, 1312])
@pytest.mark.parametrize("kind", ["fp4", "fp8"])
def test_quantised_activations(kind: str, k: int, out: torch.dtype) -> None:
    draw = Draw(F32, k)
    op = f"{kind}_linear"
    x, x_scale = act_quant(draw.normal(TOKENS, k), 128)
    w, w_scale = weight(kind, draw.normal(141, k), F32)
    got = getattr(ops, op)(x, x_scale, w, w_scale, out)
    compute = getattr(reference, op)
    near(op, got, compute(x, x_scale, w, w_scale, out), compute(x, x_scale, w, w_scale, torch.float64))
    same_alone(lambda rows: getattr(ops, op)(x[rows], x_scale[rows], w, w_scale, out), got)


@pytest.mark.parametrize("kind", ["fp4", "fp8"])
def test_scales_and_codes_at_the_ends_of_their_range(kind: str) -> None:
    k = 256
    w = torch.arange(k * 24, dtype=torch.int64).mul(37).remainder(256).to(torch.uint8)
    rows = w.view(24, -1)
    if kind == "fp8":
        rows &= 0xF7  # at most 240, no NaN, every subnormal
        q, scales = rows.view(torch.float8_e4m3fn), torch.tensor([[1, 247]], dtype=torch.uint8)
    else:
        q, scales = rows[:, : k // 2].contiguous().view(torch.int8), torch.full((24, k // 32), 127, dtype=torch.uint8)
        scales[:, 0], scales[:, 3], scales[:, 5] = 1, 250, 20
    x = torch.ones(3, k) * 2.0**-20
    args = (x, None, q, scales.view(torch.float8_e8m0fnu))
    want = getattr(reference, f"{kind}_linear")(*args, F32)
    for exact in (x, x.bfloat16()):
        got = getattr(ops, f"{kind}_linear")(exact, *args[1:], F32)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6 * float(want.abs().max()))
    scales[0, 1] = 255
    if kind == "fp8":
        scales[0, 1] = 127
        rows[5, 3] = 0xFF
    got = getattr(ops, f"{kind}_linear")(x.bfloat16(), *args[1:], BF16)
    want = getattr(reference, f"{kind}_linear")(x.bfloat16(), *args[1:], BF16)
    assert want.isnan().any() and torch.equal(got.isnan(), want.isnan())


@pytest.mark.parametrize("flush", [False, True], ids=["", "subnormals are zero"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("kind", ["fp4", "fp8"])
def test_few_tokens_have_the_bits_of_many_whatever_the_scale(kind: str, dtype: torch.dtype, flush: bool) -> None:
    k = 384
    codes = torch.arange(40 * k).mul(37).remainder(256).to(torch.uint8)
    if kind == "fp8":
        codes = (codes & 0xF7).view(40, k)  # no NaN, every subnormal
        codes[:, :128] |= (codes[:, :128] & 0x78).eq(0).byte() << 3  # and rows that begin without any
        w, scales = codes.view(torch.float8_e4m3fn), (1, k // 128)
    else:
        w, scales = codes[: 40 * k // 2].view(40, k // 2).view(torch.int8), (40, k // 32)
    linear, threads = getattr(ops, f"{kind}_linear"), torch.get_num_threads()
    torch.set_num_threads(1)  # the mode is a thread's own
    if flush and not torch.set_flush_denormal(True):
        pytest.skip("this machine has no such mode")
    try:
        for code in (0, 1, 20, 100, 127, 133, 134, 135, 140, 200, 239, 240, 250, 254):
            scale = torch.full(scales, code, dtype=torch.uint8)
            scale[:, scales[1] // 2 :: 2] ^= 3
            scale = scale.view(torch.float8_e8m0fnu)
            for power in (-128, -110, -30, 0, 12, 90):
                x = (Draw(F32, code).normal(40, k) * 2.0**power).to(dtype)
                x[0, ::5], x[1], x[2, 32:64] = 0, 0, 0
                x[2, 64:] *= 2.0 ** -torch.arange(k - 64).mul(5).remainder(19)  # further apart than integers hold
                x[3] *= 2.0 ** -torch.arange(k).mul(7).remainder(11)
                for given in ((x, None), act_quant(x, 128)):
                    many = linear(*given, w, scale, F32)
                    for n in (1, 2, 3, 4, 5, 16, 17, 32):
                        few = [part if part is None else part[:n] for part in given]
                        assert torch.equal(bits(linear(*few, w, scale, F32)), bits(many[:n]))
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def test_groups_begin_anywhere_among_rows_that_share_a_scale() -> None:
    draw, groups, rows, k = Draw(BF16, 5), 4, 104, 192
    w, _ = quantise_weight_fp8(draw.normal(groups * rows, k))
    scale = torch.arange(121, 129, dtype=torch.uint8).view(4, 2).view(torch.float8_e8m0fnu)
    x = draw.normal(40, groups, k)
    many = ops.grouped_linear(x, w, scale)
    near("grouped_linear", many, reference.grouped_linear(x, w, scale), reference.grouped_linear(x.double(), w, scale))
    for n in (1, 2, 4, 16):
        assert torch.equal(bits(ops.grouped_linear(x[:n], w, scale)), bits(many[:n]))


def test_a_code_that_is_no_number_reaches_the_few_tokens_of_its_own_row() -> None:
    codes = torch.full((64, 128), 0x38, dtype=torch.uint8)
    codes[37, 101] = 0x7F
    w, scale = codes.view(torch.float8_e4m3fn), torch.full((1, 1), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    for n in (1, 4, 5, 40):
        got = ops.fp8_linear(torch.ones(n, 128, dtype=BF16), None, w, scale, BF16)
        assert got[:, 37].isnan().all() and got.isnan().sum() == n and got[0, 0] == 128


@pytest.mark.parametrize("k", [1100, 1088])  # rows end within 32 values, and with them
@pytest.mark.parametrize("dtypes", [(BF16, BF16, F32), (F32, BF16, F32), (BF16, F32, BF16), (F32, F32, BF16)], ids=str)
def test_linear_of_mixed_dtypes(dtypes: tuple[torch.dtype, ...], k: int) -> None:
    draw = Draw(F32, 1)
    x, w = draw.normal(TOKENS, k, dtype=dtypes[0]), draw.normal(50, k, dtype=dtypes[1])
    got = ops.linear(x, w, dtypes[2])
    near("linear", got, reference.linear(x, w, dtypes[2]), reference.linear(x.double(), w.double(), torch.float64))
    same_alone(lambda rows: ops.linear(x[rows], w, dtypes[2]), got)


def experts(kind: str, dtype: torch.dtype, official: bool, d: int = 160, width: int = 288) -> tuple[Any, ...]:
    draw = Draw(dtype, 3)
    stacks = ((9, width, d), (9, width, d), (9, d, width))
    # Expert 8 has no tokens, expert 7 all of them, twice in some.
    indices = draw.integers(7, TOKENS, 3, dtype=torch.int32)
    indices[:, 1] = 7
    indices[::5, 2] = 7
    matrices = [part for shape in stacks for part in weight(kind, draw.normal(*shape, dtype=F32) * 0.1, dtype)]
    return (draw.normal(TOKENS, d), indices, draw.normal(TOKENS, 3, dtype=F32).abs(), *matrices, 1.0, official)


def oracle_of(args: tuple[Any, ...]) -> Tensor:
    return reference.moe_experts(
        *(a.double() if isinstance(a, Tensor) and a.dtype in (F32, BF16) else a for a in args[:-1]), args[-1]
    )


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("kind", FORMATS)
def test_experts_of_every_format(kind: str, dtype: torch.dtype, official: bool) -> None:
    args = experts(kind, dtype, official)
    got = ops.moe_experts(*args)
    near("moe_experts", got, reference.moe_experts(*args), oracle_of(args))
    same_alone(lambda rows: ops.moe_experts(*(a[rows] for a in args[:3]), *args[3:]), got)
    shared = Draw(dtype, 4).normal(*got.shape)
    whole = (got + shared.float()).to(dtype)
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.equal(bits(ops.moe_experts(*args)), bits(got))
        assert torch.equal(bits(ops.moe_experts(*args, shared)), bits(whole))
    torch.set_num_threads(threads)
    x, indices, weights, w1, s1, w3, s3, *rest = args
    gate, up = as_halves(w1, w3)
    for third, copies in ((up, 0), (w3, 1)):  # w1 and w3 lie alike, or w1 is copied
        with torch.profiler.profile() as profile:
            assert torch.equal(bits(ops.moe_experts(x, indices, weights, gate, s1, third, s3, *rest)), bits(got))
        assert sum(event.name == "aten::clone" for event in profile.events()) == copies


def test_official_experts_propagate_nan_and_infinity_to_their_own_tokens_only() -> None:
    args = experts("fp4", BF16, True)
    clean = ops.moe_experts(*args)
    for value in (torch.nan, torch.inf):
        x = args[0].clone()
        x[20, 3] = value
        got, want = ops.moe_experts(x, *args[1:]), reference.moe_experts(x, *args[1:])
        assert torch.equal(got.isnan(), want.isnan()) and got[20].isnan().any()
        others = torch.arange(TOKENS) != 20
        assert torch.equal(bits(got[others]), bits(clean[others]))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_official_experts_round_what_is_beside_infinity_as_act_quant_does(dtype: torch.dtype) -> None:
    """-1.5 * 2^127 times 1.5 is minus infinity, and NaN beside infinity; half of it would be finite."""
    x, w = torch.zeros(1, 32, dtype=dtype), torch.ones(32, 32)
    x[0, 0], x[0, 5], w[:, 5] = torch.inf, -1.5 * 2.0**127, 1.5
    w, scale = quantise_weight_fp4(w)
    gate = ops.fp4_linear(*ops.act_quant(x, 128), w, scale, dtype)
    stack = (w[None], scale[None])
    got = ops.moe_experts(x, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1), *stack, *stack, *stack, 0.0, True)
    assert gate.isnan().all() and got.isnan().all()


@pytest.mark.parametrize("bad", [-1, 9, 1 << 30])
@pytest.mark.parametrize("compute", [ops.moe_experts, reference.moe_experts], ids=["kernel", "reference"])
def test_an_expert_that_does_not_exist_is_refused(compute: Any, bad: int) -> None:
    args = experts("plain", F32, False)
    args[1][11, 0] = bad
    with pytest.raises(ValueError, match=rf"^v4npu.moe_experts: topk_indices must be in 0 .. 8, got {bad}$"):
        compute(*args)
