"""Every Ascend kernel on the emulated chips, against the reference; quantisers byte for byte."""

from __future__ import annotations

import re

import pytest
import torch
from indexer_cases import indexer_case
from small_runs import coefficients, compressor_case, normal, small_run

from v4npu import reference
from v4npu.emulated_kernels import skus
from v4npu.kernel_cache import ASCEND
from v4npu.reference.formats import quantise_weight_fp4, quantise_weight_fp8, round_fp4
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.ascend_ops import OPS
from v4npu.testing.attention import OPS as ATTENTIONS
from v4npu.testing.attention import Shape, problem
from v4npu.testing.cases import arguments, experts_problem

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
ARCHS = ("ascend910b1", "ascend950dt_9591")  # one SKU of each; the kernels cannot tell those of one architecture apart


def assert_close(got, exact, dtype):
    """Within a rounding of `dtype` and a few of fp32 of the float64 result."""
    error = (got.double() - exact).abs()
    bound = torch.finfo(dtype).eps * exact.abs() + 8 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert (error <= bound).all(), f"off by {error.max():.3g}"


@pytest.mark.parametrize("n", [1, 7, 16, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_rms_norm(emulated, sku, dtype, n):
    x, weight = normal(5, n, dtype=dtype), normal(n, dtype=dtype, seed=1)
    for w in (weight, None):
        exact = reference.rms_norm(x.double(), w, 1e-6)
        assert_close(emulated(sku).rms_norm(x, w, 1e-6), exact, dtype)


def test_rms_norm_with_fp32_weight(emulated):
    x, weight = normal(5, 300, dtype=torch.bfloat16), normal(300, seed=1)
    assert_close(emulated(ARCHS[0]).rms_norm(x, weight, 1e-6), reference.rms_norm(x.double(), weight, 1e-6), x.dtype)


@pytest.mark.parametrize("heads,head_dim,rope_dim", [
    (1, 64, 64), (64, 512, 64), (70, 96, 64), (3, 80, 16), (5, 6, 2), (2, 10, 6), (3, 2048, 2048),
])  # fmt: skip
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_rope(emulated, sku, dtype, heads, head_dim, rope_dim):
    x = normal(4, heads, head_dim, dtype=dtype)
    positions = torch.tensor([0, 5, 131071, 2**20 - 1])
    freqs = rope_frequencies(rope_dim, 160000.0)
    for inverse in (False, True):
        exact = reference.rope(x.double(), positions, freqs, inverse)  # the angle itself is rounded to fp32 in both
        got = emulated(sku).rope(x, positions, freqs, inverse)
        assert_close(got, exact, dtype)
        assert torch.equal(got[..., : head_dim - rope_dim], x[..., : head_dim - rope_dim])
        assert torch.equal(emulated(sku).rope(x, positions, freqs, inverse, in_place=True), got)


def bytes_of(tensors):
    return [t.view(torch.uint8) for t in tensors]


@pytest.mark.parametrize("n,block_size", [(128, 128), (7168, 128), (130, 32), (2, 8), (66, 64), (4100, 2048)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["act_quant", "fp4_act_quant"])
@pytest.mark.parametrize("sku", ARCHS)
def test_quantisers(emulated, sku, op, dtype, n, block_size):
    for factor in (1.0, 1e-7, 300.0, 1e-39, 1e30):
        x = normal(5, n, dtype=torch.float64) * factor
        x = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
        x[3] *= 0
        got = getattr(emulated(sku), op)(x, block_size)
        for mine, theirs in zip(bytes_of(got), bytes_of(getattr(reference, op)(x, block_size)), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("op", ["act_quant", "fp4_act_quant"])
@pytest.mark.parametrize("sku", ARCHS)
def test_quantisers_on_every_bfloat16(emulated, sku, op):
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    finite = every[every.float().isfinite()].view(-1, 1, 32)
    blocks = torch.cat([finite * 2.0**k for k in (-9, 0)], dim=1).flatten(1)  # two scales of every block
    blocks = blocks.clamp(-3e38, 3e38)
    got = getattr(emulated(sku), op)(blocks, 32)
    for mine, theirs in zip(bytes_of(got), bytes_of(getattr(reference, op)(blocks, 32)), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("sku", ARCHS)
def test_act_quant_of_nan_and_infinity(emulated, sku):
    x = normal(4, 256)
    x[0, 3], x[1, 5], x[2, 7], x[3, 200] = torch.inf, -torch.inf, torch.nan, -0.0
    for mine, theirs in zip(bytes_of(emulated(sku).act_quant(x)), bytes_of(reference.act_quant(x)), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("sku", ARCHS)
def test_fp4_act_quant_of_nan_and_infinity(emulated, sku):
    x = normal(5, 128)
    x[0, 3], x[1, 5], x[4, 100] = torch.nan, -torch.inf, -torch.nan
    x[3] = torch.finfo(torch.float32).max
    q, scale = emulated(sku).fp4_act_quant(x)
    spoilt = scale.float().isnan()
    assert spoilt.nonzero().tolist() == [[0, 0], [4, 3]]
    finite = reference.fp4_act_quant(x.nan_to_num(0, torch.inf, -torch.inf))
    for mine, theirs in zip(bytes_of((q, scale)), bytes_of(finite), strict=True):
        assert torch.equal(mine.view(20, -1)[~spoilt.flatten()], theirs.view(20, -1)[~spoilt.flatten()])


@pytest.mark.parametrize("rows,n", [(5, 1), (3, 2), (11, 4), (9, 8), (70, 64), (37, 128), (1, 512), (3, 2048)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_hadamard(emulated, sku, dtype, rows, n):
    x = normal(rows, n, dtype=dtype)
    assert_close(emulated(sku).hadamard(x), reference.hadamard(x.double()), dtype)


@pytest.mark.parametrize("tokens,heads,head_dim", [(5, 64, 128), (3, 1, 32), (2, 3, 2048)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sku", ARCHS)
def test_indexer_query(emulated, sku, dtype, tokens, heads, head_dim):
    q = normal(tokens, heads, head_dim, dtype=dtype) * torch.logspace(-8, 4, tokens * heads).view(tokens, heads, 1)
    q = q.to(dtype)
    q[0, 0], q[-1, -1, :31] = 0, 0
    where = torch.arange(tokens) * 1000, rope_frequencies(head_dim // 2, 160000.0)
    rotated = emulated(sku).rope(q, *where)
    assert torch.equal(emulated(sku).indexer_query(q, *where, False), rotated)
    # Of the same rotated queries, the other steps give the reference's values, to the bit but for the sign of a zero.
    wanted = round_fp4(reference.hadamard(rotated))
    assert torch.equal(emulated(sku).indexer_query(q, *where, True), wanted)


@pytest.mark.parametrize("sku", ARCHS)
def test_indexer_query_of_nan_and_infinity(emulated, sku):
    q = normal(4, 2, 64, dtype=torch.bfloat16)
    q[0, 1, 3], q[2, 0, 5] = torch.nan, torch.inf
    where = torch.zeros(4, dtype=torch.int64), rope_frequencies(16, 160000.0)
    got = emulated(sku).indexer_query(q, *where, True)
    torch.testing.assert_close(got, round_fp4(reference.hadamard(q)), rtol=0, atol=0, equal_nan=True)
    assert got[0, 1].isnan().all() and got[2, 0].isinf().all() and got[[1, 3]].isfinite().all()


@pytest.mark.parametrize("op", OPS)
def test_every_sku_and_any_number_of_blocks_gives_the_same_bits(emulated, op):
    by_arch = {}
    for sku, arch in skus().items():
        for num_blocks in (1, 2, 11):
            got = [t.view(torch.uint8) for t in small_run(emulated(sku, num_blocks), op)[0]]
            expected = by_arch.setdefault(arch, got)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("op", OPS)
def test_no_rows(emulated, op):
    empty = {
        "rms_norm": (torch.empty(0, 8), torch.ones(8), 1e-6),
        "rope": (torch.empty(0, 2, 8), torch.empty(0, dtype=torch.int64), torch.ones(2)),
        "gate": (torch.empty(0, 8), torch.ones(4, 8), None, 2, 1.0),
        "hadamard": (torch.empty(0, 8),),
        "indexer_query": (torch.empty(0, 2, 32), torch.empty(0, dtype=torch.int64), torch.ones(2), True),
        "hash_gate": (torch.empty(0, 8), torch.ones(4, 8), torch.ones(2, 2, dtype=torch.int64), torch.arange(0), 1.0),
        "hc_pre": (torch.empty(0, 2, 4), *coefficients("hc_pre", 2, 4), 1e-6, 1e-6, 2),
        "hc_head": (torch.empty(0, 2, 4), *coefficients("hc_head", 2, 4), 1e-6, 1e-6),
        "hc_post": (torch.empty(0, 8), torch.empty(0, 4, 8), torch.empty(0, 4), torch.empty(0, 4, 4)),
        "swiglu": (torch.empty(0, 8), torch.empty(0, 8), None, 1.0),
        "qkv_prepare": (
            torch.empty(0, 2, 80),
            torch.empty(0, 80),
            torch.ones(80),
            torch.arange(0),
            torch.ones(8),
            1e-6,
            True,
        ),
        "compressor": compressor_case(8, "none", (), num_tokens=0),
        "linear": (torch.empty(0, 8), torch.empty(4, 8), torch.float32),
        "grouped_linear": (torch.empty(0, 2, 8), torch.empty(4, 8), None),
        "fp8_linear": (torch.empty(0, 32), None, *quantise_weight_fp8(torch.ones(4, 32)), torch.float32),
        "fp4_linear": (torch.empty(0, 32), None, *quantise_weight_fp4(torch.ones(4, 32)), torch.float32),
        "indexer_scores": indexer_case(torch.float32, 2, 8, lengths=((0, 8), (0, 0))),
        "indexer_topk": (*indexer_case(torch.float32, 2, 8, lengths=((0, 8), (0, 0)))[:-1], 3, False),
        "moe_experts": (*experts_problem(0, 4, "fp4"), 10.0, True),
        **{a: problem(a, 16, False, False, shape=Shape((0, 0), (8, 9))) for a in ATTENTIONS},
    }
    getattr(emulated(ARCHS[0]), op)(*empty.get(op, (torch.empty(0, 8), 8)))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("sku", ARCHS)
def test_the_head_comment_states_the_bytes_of_the_unified_buffer(emulated, sku, op):
    text = (ASCEND / f"ops/{op}_kernel.asc").read_text()
    for header in re.findall(r'#include "\.\./common/((?:block_quant\w*|attention)\.h)"', text):
        if "_dav" not in header or header.endswith(f"_dav{skus()[sku]}.h"):
            text = (ASCEND / "common" / header).read_text()
            break
    stated = [int(n) for n in re.search(r"total (\d+) / (\d+)", text).groups()]
    used = []
    for dtype in (torch.float32, torch.bfloat16):
        ops = emulated(sku)
        getattr(ops, op)(*arguments(op, dtype, official=True))
        used.append(ops.report.ub_bytes)
    assert used == stated
