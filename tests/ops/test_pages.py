"""Pages of the cache: packed rows mean what plain ones do, wherever their pages lie and whatever is beside them."""

import pytest
import torch

from v4npu import _C, ops
from v4npu.reference import pages
from v4npu.reference.qkv_prepare import round_kv
from v4npu.testing.cases import arguments
from v4npu.testing.paging import KEYS, QUANT, rounded_keys

BLOCK = 5


@pytest.mark.parametrize(
    "name, dims, size",
    [("plain", (512, 64, 2), 1024), ("fp8_kv", (512, 64, 2), 584), ("fp4_key", (128, 64, 2), 68),
     ("fp8_key", (128, 64, 2), 132), ("fp8_row", (512, 64, 2), 528), ("fp4_row", (512, 64, 2), 288)],
)  # fmt: skip
def test_row_bytes_of_the_specification(name, dims, size):
    assert _C.row_format(name, *dims).row == size


def packed_pages(name, dim, rope_dim, count=3):
    """Pages that lie apart in a pool full of 0xA5, as the pages of one layer do."""
    row = _C.row_format(name, dim, rope_dim, 2).row
    pool = torch.full((count, BLOCK * row + 64), 0xA5, dtype=torch.uint8)
    return pool, pool[:, : BLOCK * row].unflatten(1, (BLOCK, row))


@pytest.mark.parametrize("dim, rope_dim", [(512, 64), (96, 32), (80, 16), (16, 16)])
def test_kv_rows_pack_without_loss(dim, rope_dim):
    generator = torch.Generator().manual_seed(dim)
    rows = torch.randn(11, dim, generator=generator).bfloat16() * torch.logspace(-9, 4, 11).unsqueeze(1).bfloat16()
    rows[3] = 0
    rounded = round_kv(rows, rope_dim)
    pool, cache = packed_pages("fp8_kv", dim, rope_dim)
    at = torch.randperm(3 * BLOCK, generator=generator)[:11]
    at[4] = -1
    pages.write_rows(cache, rounded, at, rope_dim, "fp8")
    stored = at >= 0
    assert torch.equal(pages.read_kv(cache, at[stored], dim, rope_dim), rounded[stored])
    assert (pool[:, cache.shape[1] * cache.shape[2] :] == 0xA5).all()
    rest = torch.tensor([s for s in range(3 * BLOCK) if s not in at.tolist()])
    kept = pages._load(cache, rest, 2 * dim - (dim - rope_dim), -(-(dim - rope_dim) // 64))[0]
    assert (kept == 0xA5).all()


@pytest.mark.parametrize("kind", KEYS[1:])
@pytest.mark.parametrize("dim", [16, 32, 64, 128])
def test_keys_pack_without_loss(dim, kind):
    rows = torch.randn(7, dim, generator=torch.Generator().manual_seed(dim)).bfloat16()
    rounded = rounded_keys(rows * torch.logspace(-9, 4, 7).unsqueeze(1).bfloat16(), kind)
    _, cache = packed_pages(kind, dim, 0)
    at = torch.tensor([14, 0, 3, 9, 5, 1, 2])
    pages.write_rows(cache, rounded, at, 0, QUANT[kind])
    assert torch.equal(pages.read_keys(cache, at, dim), rounded)


def packed_copy(plain, name, dim, rope_dim):
    """The rows of plain pages, rounded, packed into pages of their own; and the rounded plain pages."""
    rounded = round_kv(plain, rope_dim) if name == "fp8_kv" else rounded_keys(plain, name)
    row = _C.row_format(name, dim, rope_dim, 2).row
    cache = torch.zeros(*plain.shape[:2], row, dtype=torch.uint8)
    slots = torch.arange(plain.shape[0] * plain.shape[1])
    pages.write_rows(cache, rounded.flatten(0, 1), slots, rope_dim, QUANT[name])
    return cache, rounded


@pytest.mark.parametrize("op", ["window_attention", "csa_attention", "hca_attention"])
def test_attention_over_packed_rows(op):
    args = list(arguments(op, torch.bfloat16, official=True))
    same = list(args)
    for i in [1] if op == "window_attention" else [1, 3]:
        args[i], same[i] = packed_copy(args[i], "fp8_kv", 80, 16)
    assert torch.equal(getattr(ops, op)(*args), getattr(ops, op)(*same))


@pytest.mark.parametrize("op", ["window_attention", "csa_attention", "hca_attention"])
def test_attention_over_rows_of_all_codes(op):
    """Rows of normal codes, of every code, and of scales whose product with 2^120 is infinite; a NaN in one of them."""
    packed = list(arguments(op, torch.bfloat16, official=True))
    same = list(packed)
    dim, rope_dim, keep = 80, 16, 64
    generator = torch.Generator().manual_seed(1)
    for i in [1] if op == "window_attention" else [1, 3]:
        count = packed[i].shape[0] * packed[i].shape[1]
        row = torch.arange(count).unsqueeze(1)
        codes = torch.randint(0, 256, (count, keep), generator=generator)
        codes = torch.where(row % 3 == 0, codes | 8, codes) & 0xFF
        codes = torch.where(codes & 0x7F == 0x7F, codes - 1, codes)
        codes[2, 7] = 0x7F
        scales = torch.where(row % 3 == 2, 137, torch.randint(105, 120, (count, 1), generator=generator))
        turned = torch.randn(count, rope_dim, generator=generator).bfloat16()
        payload = torch.cat((codes.to(torch.uint8), turned.view(torch.uint8)), 1)
        cache = torch.zeros(*same[i].shape[:2], _C.row_format("fp8_kv", dim, rope_dim, 2).row, dtype=torch.uint8)
        pages._store(cache, torch.arange(count), payload, scales.to(torch.uint8))
        packed[i] = cache
        same[i] = pages.read_kv(cache, torch.arange(count), dim, rope_dim).unflatten(0, same[i].shape[:2])
    got = getattr(ops, op)(*packed)
    torch.testing.assert_close(got, getattr(ops, op)(*same), rtol=0, atol=0, equal_nan=True)
    assert 0 < got.isfinite().sum() < got.numel()


@pytest.mark.parametrize("kind", KEYS[1:])
@pytest.mark.parametrize("op", ["indexer_scores", "indexer_topk"])
def test_indexer_over_packed_keys(op, kind):
    args = list(arguments(op, torch.bfloat16, official=True))
    same = list(args)
    args[2], same[2] = packed_copy(args[2], kind, 32, 0)
    assert torch.equal(getattr(ops, op)(*args), getattr(ops, op)(*same))


@pytest.mark.parametrize("packed", [False, True])
def test_qkv_prepare_stores_its_rows(packed):
    args = arguments("qkv_prepare", torch.bfloat16, official=True)
    _, cache = packed_pages("fp8_kv", 80, 16)
    cache = cache if packed else torch.zeros(3, BLOCK, 80, dtype=torch.bfloat16)
    at = torch.tensor([7, 0, 1, -1, 14, 3, 2, 5, 6, 8, 9, 10])
    _, kv = ops.qkv_prepare(*args, cache, at)
    assert torch.equal(pages.read_kv(cache, at[at >= 0], 80, 16), kv[at >= 0])


@pytest.mark.parametrize("name, quant", QUANT.items())
def test_compressor_stores_its_entries(name, quant):
    args = list(arguments("compressor", torch.bfloat16))
    args[12], args[14] = quant, torch.bfloat16
    _, cache = packed_pages(name, 32, 16)
    cache = torch.zeros(3, BLOCK, 32, dtype=torch.bfloat16) if quant == "none" else cache
    at = torch.tensor([11, -1, 0])
    entries = ops.compressor(*args, cache, at)
    read = pages.read_keys(cache, at[at >= 0], 32) if name in KEYS else pages.read_kv(cache, at[at >= 0], 32, 16)
    assert torch.equal(read, entries[at >= 0])


@pytest.mark.parametrize("kind", KEYS[1:])
def test_a_broken_key_is_packed_as_nan_and_disturbs_no_other(kind) -> None:
    args = list(arguments("compressor", torch.bfloat16))
    args[12] = QUANT[kind]
    args[0] = args[0].clone()
    args[0][3, 40] = torch.nan  # half of the columns feed the entry that this token completes
    _, cache = packed_pages(kind, 32, 16)
    at = torch.tensor([11, 4, 0])
    entries = ops.compressor(*args, cache, at)
    read = pages.read_keys(cache, at, 32)
    broken = entries.isnan().any(-1)
    assert broken.any() and not broken.all()
    assert torch.equal(read.isnan(), entries.isnan()) and torch.equal(read[~broken], entries[~broken])
    packed = torch.zeros_like(cache)
    pages.write_rows(packed, entries, at, 0, QUANT[kind])
    assert torch.equal(pages.read_keys(packed, at, 32).isnan(), entries.isnan())
