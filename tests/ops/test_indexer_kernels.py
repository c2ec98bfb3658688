"""Index scores on the CPU: few and many heads of the sizes that kernels know, packed and broken keys, any tile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.reference import pages
from v4npu.reference.formats import round_fp4
from v4npu.testing.cases import Draw, int32
from v4npu.testing.paging import QUANT, rounded_keys, spread_scales
from v4npu.testing.tolerances import ERROR_RATIO

ENTRIES, TOKENS, BLOCK = 150, 45, 24
SHAPES = [(64, 128), (48, 128), (16, 64), (20, 40), (4, 64), (3, 128), (1, 256)]  # heads, dim
DTYPES = [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]  # and official


pytestmark = pytest.mark.usefixtures("isa")


def stored(keys: Tensor, kind: str = "plain") -> Tensor:
    """Pages of the keys in ascending order, those behind the last NaN."""
    count = -(-len(keys) // BLOCK)
    row = _C.row_format(kind, keys.shape[1], 0, keys.itemsize).row
    cache = torch.full((count, BLOCK, row), 0xFF, dtype=torch.uint8)
    cache = cache.view(keys.dtype) if kind == "plain" else cache
    pages.write_rows(cache, keys, torch.arange(len(keys)), 0, QUANT[kind])
    return cache


def arguments(heads: int, dim: int, dtype: torch.dtype, official: bool, seed: int = 0) -> tuple:
    """TOKENS queries, each of which sees other entries, and the last all of them."""
    draw = Draw(dtype, seed)
    q, weights, keys = draw.normal(TOKENS, heads, dim), draw.normal(TOKENS, heads), round_fp4(draw.normal(ENTRIES, dim))
    table = torch.arange(-(-ENTRIES // BLOCK)).int()[None]
    return q, weights, stored(keys), table, int32(0, TOKENS), int32(ENTRIES - TOKENS), 1, official


def scores(args: tuple) -> Tensor:
    return torch.ops.v4npu.indexer_scores(*args)


def one_by_one(args: tuple) -> Tensor:
    q, weights, keys, table, _, start, *rest = args
    calls = [(q[i : i + 1], weights[i : i + 1], keys, table, int32(0, 1), start + i, *rest) for i in range(TOKENS)]
    return torch.cat([scores(c) for c in calls])


@pytest.mark.parametrize("dtype, official", DTYPES, ids=str)
@pytest.mark.parametrize("heads, dim", SHAPES)
def test_close_to_float64_and_alike_in_any_tile(heads: int, dim: int, dtype: torch.dtype, official: bool) -> None:
    args = arguments(heads, dim, dtype, official)
    got, plain = scores(args), reference.indexer_scores(*args)
    exact = reference.indexer_scores(*(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a
                                       for a in args[:-1]), False)  # fmt: skip
    seen = exact.isfinite()
    assert torch.equal(got.isneginf(), ~seen)
    error, allowed = ((x.double() - exact)[seen].abs().max() for x in (got, plain))
    ulp = torch.finfo(dtype if official else torch.float32).eps / 2 * exact[seen].abs().max()
    assert error <= ERROR_RATIO["indexer_scores"] * allowed + ulp
    assert torch.equal(one_by_one(args), got)
    q, weights, keys, table, _, start, *rest = args  # the same queries behind 13 others
    shifted = (torch.cat((q[:13], q)), torch.cat((weights[:13], weights)), keys, table.expand(2, -1),
               int32(0, 13, 13 + TOKENS), torch.cat((start, start)), *rest)  # fmt: skip
    assert torch.equal(scores(shifted)[13:], got)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(
    "heads, dim, kind",
    [(64, 128, "fp4_key"), (4, 64, "fp4_key"), (3, 128, "fp4_key"), (1, 256, "fp4_key"), (64, 128, "fp8_key"),
     (3, 20, "fp8_key")],
)  # fmt: skip
def test_packed_keys_mean_what_plain_ones_do(heads: int, dim: int, kind: str, official: bool) -> None:
    """Among them scales too small and too large for sums of exponents, zeros, and a key that is NaN."""
    args = list(arguments(heads, dim, torch.bfloat16, official))
    keys = args[2].flatten(0, 1)[:ENTRIES].clone()
    keys[20], keys[50], keys[60] = keys[20] * 2.0**-110, keys[50] * 2.0**80, 0
    keys[90, 3] = torch.nan
    keys = rounded_keys(keys, kind)
    args[2] = stored(keys)
    plain = scores(tuple(args))
    args[2] = stored(keys, kind)
    packed = scores(tuple(args))
    assert plain[:, 90].isnan().any() and not plain[:, :90].isnan().any()
    known = ~plain.isnan()
    assert torch.equal(packed[known], plain[known])
    assert torch.equal(one_by_one(tuple(args))[known], packed[known])
    alone = torch.arange(ENTRIES) != 90
    assert packed[:, :ENTRIES][:, alone].isnan().sum() == 0


def test_overflow_is_infinite_and_disturbs_no_neighbour() -> None:
    args = list(arguments(16, 64, torch.bfloat16, True))
    clean, keys = scores(tuple(args)), args[2].clone()
    keys.view(-1, 64)[33] = 3e38
    args[0], args[1], args[2] = args[0].abs() + 1, args[1].abs() + 1, keys
    huge, again = scores(tuple(args)), scores((args[0], args[1], arguments(16, 64, torch.bfloat16, True)[2], *args[3:]))
    assert huge[:, 33].isposinf().all() and clean[:, 33].isfinite().all()
    others = torch.arange(huge.shape[1]) != 33
    assert torch.equal(huge[:, others], again[:, others])


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("heads, dim", [(64, 128), (3, 20)])
def test_fp8_keys_of_any_scale_are_their_products_in_bfloat16(heads: int, dim: int, official: bool) -> None:
    args = list(arguments(heads, dim, torch.bfloat16, official))
    args[2] = stored(rounded_keys(args[2].flatten(0, 1)[:ENTRIES], "fp8_key"), "fp8_key")
    spread_scales(args[2], dim)
    packed = scores(tuple(args))
    args[2] = stored(pages.read_keys(args[2], torch.arange(ENTRIES), dim))
    assert torch.equal(scores(tuple(args)), packed)
