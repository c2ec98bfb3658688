"""The attentions on the emulated chips: ragged sequences, long lists, official rounding, and what nobody sees."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from test_kernels import ARCHS

from v4npu import reference
from v4npu.kernel_cache import ASCEND
from v4npu.testing.attention import OPS, SMALL, Shape, alone, problem
from v4npu.testing.compare import complaint, oracle_args
from v4npu.testing.tolerances import ERROR_RATIO

FP32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize("dim,heads,tile", [(80, 20, 32), (144, 7, 16), (32, 70, 64)])
@pytest.mark.parametrize("dtype,official", [(FP32, False), (BF16, False), (BF16, True)])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("sku", ARCHS)
def test_ragged_sequences(emulated, sku, op, dtype, official, dim, heads, tile):
    args = problem(op, dim, False, official, shape=replace(SMALL, heads=heads), dtype=dtype)
    got = getattr(emulated(sku), op)(*args, tile=min(tile, 32) if dtype == FP32 else tile)
    exact, naive = getattr(reference, op)(*oracle_args(op, args)), getattr(reference, op)(*args)
    assert not complaint(got, naive, exact, ERROR_RATIO[op])
    if dtype == BF16:  # roundings where the reference has them
        other = getattr(reference, op)(*args[:-1], not official)
        assert (got != naive).double().mean() < 0.005 < 0.02 < (got != other).double().mean()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("sku", ARCHS)
def test_packed_rows_of_flash_give_the_bits_of_plain_ones(emulated, sku, op):
    shape = Shape((1, 1), (400, 700), 128, 100, heads=64, rope=64)
    packed, plain = (problem(op, 512, p, True, rounded=True, shape=shape) for p in (True, False))
    got = getattr(emulated(sku), op)(*packed, tile=64)
    assert torch.equal(got, getattr(emulated(sku), op)(*plain, tile=64))
    exact, naive = getattr(reference, op)(*oracle_args(op, plain)), getattr(reference, op)(*plain)
    assert not complaint(got, naive, exact, ERROR_RATIO[op])


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("dim,heads,tile", [(80, 20, 16), (144, 40, 64)])
def test_packed_rows(emulated, dim, heads, tile, official):
    shape = replace(SMALL, heads=heads)
    for sku in ARCHS:
        ops = emulated(sku)
        packed, plain = (problem("csa_attention", dim, p, official, rounded=True, shape=shape) for p in (True, False))
        got = ops.csa_attention(*packed, tile=tile)
        stated = re.search(r"total (\d+)", (ASCEND / "common/packed_rows.h").read_text())
        assert stated and ops.report.ub_bytes == int(stated[1])
        assert torch.equal(got, ops.csa_attention(*plain, tile=tile))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("sku", ARCHS)
def test_a_token_alone_has_the_same_bits_in_tiles_of_another_size(emulated, sku, op):
    for dtype in (FP32, BF16):
        args = problem(op, 80, False, dtype == BF16, dtype=dtype)
        together = getattr(emulated(sku), op)(*args)
        for b, i, t in ((0, 1, 1), (2, 0, 3)):
            one = getattr(emulated(sku, 1), op)(*alone(op, args, b, t, SMALL.starts[b] + i), tile=16)
            assert torch.equal(one, together[t : t + 1])


@pytest.mark.parametrize("sku", ARCHS)
def test_a_pick_behind_the_table_is_none_and_a_list_may_be_its_window(emulated, sku):
    args = list(problem("csa_attention", 80, False, False))
    want = emulated(sku).csa_attention(*args)
    args[5] = args[5].clone()
    args[5][:, ::7] = 2**31 - 1
    assert torch.equal(emulated(sku).csa_attention(*args), want)
    window = emulated(sku).window_attention(*args[:3], *args[6:])
    for picks in (torch.full_like(args[5], -1), args[5][:, :0]):
        assert torch.equal(emulated(sku).csa_attention(*args[:5], picks, *args[6:]), window)


@pytest.mark.parametrize("sku", ARCHS)
def test_without_a_sink(emulated, sku):
    args = list(problem("window_attention", 32, False, False, dtype=FP32))
    args[5] = None
    got, naive = emulated(sku).window_attention(*args), reference.window_attention(*args)
    exact = reference.window_attention(*oracle_args("window_attention", tuple(args)))
    assert not complaint(got, naive, exact, ERROR_RATIO["window_attention"])


@pytest.mark.parametrize("blocks", [2, 5, 255])
def test_the_plan_deals_every_tile_once(emulated, blocks):
    """Lists of 1 to 13 steps, an idle sequence, and more blocks than tiles: what no block takes stays NaN."""
    args = problem("hca_attention", 16, False, False, shape=Shape((3, 0, 2), (3000, 7, 0), 8, heads=40), dtype=FP32)
    want = emulated(ARCHS[0], 3).hca_attention(*args, tile=16)
    assert want.isfinite().all()
    assert torch.equal(emulated(ARCHS[0], blocks).hca_attention(*args, tile=16), want)


@pytest.mark.parametrize("heads,tile", [(7, 16), (40, 64)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sku", ARCHS)
def test_many_steps_of_a_core_without_heads_or_rows(emulated, sku, packed, heads, tile):
    """Nothing to do holds a core back like the rest, or its flags would overflow."""
    shape = Shape((20,), (40,), window=1, heads=heads)
    args = problem("window_attention", 80, packed, True, rounded=True, shape=shape)
    plain = problem("window_attention", 80, False, True, rounded=True, shape=shape)
    assert torch.equal(emulated(sku, 1).window_attention(*args, tile=tile), emulated(sku).window_attention(*plain))
