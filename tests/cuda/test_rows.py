"""qkv_prepare and compressor on the emulated GPU: rows on their way into pages, ragged sequences, states in chunks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.reference import pages
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.cases import Draw, int32
from v4npu.testing.compare import oracle_args
from v4npu.testing.cuda import EmulatedGpu
from v4npu.testing.paging import QUANT

BF16, FP32 = torch.bfloat16, torch.float32
FORMAT = {quant: kind for kind, quant in QUANT.items()}


def near(op: str, got: tuple[Tensor, ...], args: tuple) -> bool:
    """Within 1.5 times the error of the reference in the same dtype, and a unit in the last place of the largest."""

    def results(given: tuple) -> tuple[Tensor, ...]:
        given = tuple(a.clone() if isinstance(a, Tensor) else a for a in given)
        out = getattr(reference, op)(*given)
        return out if isinstance(out, tuple) else (out,)

    for g, n, e in zip(got, results(args), results(oracle_args(op, args)), strict=True):
        allowed = 1.5 * (n.double() - e).abs().max() + torch.finfo(g.dtype).eps * e.abs().max()
        if g.dtype != n.dtype or bool((g.double() - e).abs().max() > allowed):
            return False
    return True


def empty_pages(kind: str, count: int, block: int, dim: int, rope: int, dtype: torch.dtype = BF16) -> Tensor:
    """Pages that lie apart in a pool of 0xA5."""
    row = _C.row_format(kind, dim, rope, dtype.itemsize).row
    pool = torch.full((count, block * row + 64), 0xA5, dtype=torch.uint8)
    inside = pool[:, : block * row].unflatten(1, (block, row))
    return inside if kind != "plain" else pool.view(dtype)[:, : block * dim].unflatten(1, (block, dim))


def raw(cache: Tensor) -> Tensor:
    """The bytes of a pool, those between the pages too."""
    size = cache.untyped_storage().nbytes()
    return torch.empty(0, dtype=torch.uint8).set_(cache.untyped_storage(), 0, (size,)).clone()  # type: ignore[call-overload]


HEADS = [(64, 512, 64), (3, 80, 16), (7, 34, 4), (2, 1024, 1024), (9, 200, 0), (1, 2, 2)]  # heads, head_dim, rope_dim


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("heads,dim,rope", HEADS)
def test_qkv_prepare(gpu: EmulatedGpu, heads: int, dim: int, rope: int, dtype: torch.dtype, official: bool) -> None:
    draw, tokens = Draw(dtype, dim), 5
    args = (
        draw.normal(tokens, heads, dim), draw.normal(tokens, dim), draw.normal(dim),
        torch.tensor([0, 1, 127, 65_536, 2**20 - 1]), rope_frequencies(rope, 160_000.0), 1e-6, official,
    )  # fmt: skip
    alone = gpu.run("qkv_prepare", args)
    assert gpu.launches() and near("qkv_prepare", alone, args)
    slots = torch.tensor([5, -1, 0, 8, 3])
    for kind in ("plain", "fp8_kv") if official and dtype == BF16 else ("plain",):
        cache, want = (empty_pages(kind, 3, 3, dim, rope, dtype) for _ in range(2))
        again = gpu.run("qkv_prepare", (*args, cache, slots))
        assert all(torch.equal(a, b) for a, b in zip(again, alone, strict=True))
        pages.write_rows(want, alone[1], slots, rope, "fp8")
        assert torch.equal(raw(cache), raw(want))


def test_packed_pages_at_odd_addresses_are_the_references(gpu: EmulatedGpu) -> None:
    draw, slots = Draw(BF16, 3), torch.tensor([2, 1])
    turned = (torch.tensor([3, 4]), rope_frequencies(64, 10_000.0), 1e-6, True)
    args = (draw.normal(2, 3, 192), draw.normal(2, 192), draw.normal(192), *turned)
    even, size = empty_pages("fp8_kv", 2, 2, 192, 64), 2 * _C.row_format("fp8_kv", 192, 64, 2).row
    odd = torch.full((2, size + 1), 0xA5, dtype=torch.uint8)[:, :size].unflatten(1, (2, -1))
    gpu.run("qkv_prepare", (*args, even, slots))
    gpu.run("qkv_prepare", (*args, odd, slots))
    assert not gpu.launches()
    read = [pages.read_kv(cache, slots, 192, 64) for cache in (odd, even)]
    assert (read[0] - read[1]).abs().max() <= 2.0**-3 * read[1].abs().max()


def test_a_nan_makes_its_row_nan_in_the_cache_too(gpu: EmulatedGpu) -> None:
    draw = Draw(BF16, 0)
    q, kv = draw.normal(2, 3, 192), draw.normal(2, 192)
    kv[1, 70] = torch.nan
    cache = empty_pages("fp8_kv", 1, 2, 192, 64)
    args = (q, kv, draw.normal(192), torch.tensor([3, 4]), rope_frequencies(64, 10_000.0), 1e-6, True)
    gpu.run("qkv_prepare", (*args, cache, torch.tensor([0, 1])))
    stored = pages.read_kv(cache, torch.tensor([0, 1]), 192, 64)
    assert stored[0].isfinite().all() and stored[1].isnan().all()


def pooled(
    gpu: EmulatedGpu, rows: tuple[Tensor, ...], calls: list[tuple[int, int]], ratio: int, overlap: bool, quant: str,
    rope: int, dtype: torch.dtype = BF16,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Entries of a sequence in consecutive calls, the pages and the state, which starts as NaN."""
    kv, score, ape, weight = rows
    dim, count, ring = weight.shape[0], len(kv) // ratio, ratio * (1 + overlap) + 3
    cache = empty_pages(FORMAT[quant], -(-count // 3), 3, dim, rope, dtype)
    state, out = torch.full((3, 2, ring, kv.shape[1]), torch.nan), []
    for lo, hi in calls:
        slots = torch.arange(lo // ratio, hi // ratio)
        sequence = (int32(0, hi - lo), int32(lo), state, int32(1), ratio, overlap, 1e-6, quant, len(slots), dtype)
        freqs = rope_frequencies(rope, 160_000.0)
        args = (kv[lo:hi], score[lo:hi], ape, weight, freqs, *sequence, cache, slots)
        out.append(gpu.run("compressor", args)[0])
        assert gpu.launches()
    assert state[[0, 2]].isnan().all()
    return torch.cat(out), raw(cache), state[1]


SHAPES = {  # ratio, overlap, dim, rope, tokens
    "csa": (4, True, 512, 64, 23),
    "csa keys": (4, True, 128, 64, 23),
    "hca": (128, False, 512, 64, 300),
    "odd": (3, True, 34, 4, 20),
    "wide": (2, False, 1024, 1024, 9),
}


@pytest.mark.parametrize("shape,quant,dtype", [
    ("csa", "fp8", BF16), ("csa", "none", FP32), ("csa keys", "hadamard_fp4", BF16), ("csa keys", "hadamard_fp8", BF16),
    ("csa keys", "none", BF16),
    ("hca", "fp8", BF16), ("odd", "none", BF16), ("odd", "none", FP32), ("wide", "none", BF16),
])  # fmt: skip
def test_compressor_in_any_chunks(gpu: EmulatedGpu, shape: str, quant: str, dtype: torch.dtype) -> None:
    ratio, overlap, dim, rope, tokens = SHAPES[shape]
    draw, cols = Draw(FP32, dim), dim * (1 + overlap)
    rows = (draw.normal(tokens, cols), draw.normal(tokens, cols), draw.normal(ratio, cols), draw.normal(dim))
    entries, cache, state = pooled(gpu, rows, [(0, tokens)], ratio, overlap, quant, rope, dtype)
    call = (int32(0, tokens), int32(0), None, None, ratio, overlap, 1e-6, quant, tokens // ratio, dtype)
    assert near("compressor", (entries,), (*rows, rope_frequencies(rope, 160_000.0), *call))
    want = empty_pages(FORMAT[quant], -(-len(entries) // 3), 3, dim, rope, dtype)
    pages.write_rows(want, entries, torch.arange(len(entries)), rope, quant)
    assert torch.equal(cache, raw(want))
    last = torch.arange(max(0, tokens - len(state[0])), tokens)
    assert torch.equal(state[0, last % len(state[0])], rows[0][last])
    assert torch.equal(state[1, last % len(state[1])], rows[1][last] + rows[2][last % ratio])
    for cuts in ([1, ratio, ratio + 1, tokens - ratio], [tokens - 2 * ratio - 1, tokens - 2, tokens - 1]):
        calls = list(pairwise([0, *cuts, tokens]))
        again, same, after = pooled(gpu, rows, calls, ratio, overlap, quant, rope, dtype)
        assert torch.equal(again, entries) and torch.equal(same, cache)
        assert torch.equal(after.nan_to_num(), state.nan_to_num())


@pytest.mark.parametrize("overlap", [False, True])
def test_many_ragged_sequences(gpu: EmulatedGpu, overlap: bool) -> None:
    """Of which most complete no entry, some one, one several; one has no tokens."""
    draw, ratio, dim, rope = Draw(FP32, 1), 4, 64, 16
    lengths = [1] * 20 + [0, 3] + [1, 2] * 20 + [17] + [5] * 5
    starts = [7 * i % 23 for i in range(len(lengths))]
    ends, cols = torch.tensor(lengths).cumsum(0).tolist(), dim * (1 + overlap)
    count = sum((s + n) // ratio - s // ratio for s, n in zip(starts, lengths, strict=True))
    slots = torch.randperm(count)
    slots[3] = -1
    state = draw.normal(len(lengths) + 2, 2, 12, cols)
    places = torch.randperm(len(lengths) + 2, generator=draw.generator)[: len(lengths)].int()
    call = (int32(0, *ends), int32(*starts), state, places, ratio, overlap, 1e-6, "fp8", count, BF16)
    args = (
        draw.normal(ends[-1], cols), draw.normal(ends[-1], cols), draw.normal(ratio, cols), draw.normal(dim),
        rope_frequencies(rope, 10_000.0), *call,
    )  # fmt: skip
    copy = (*args[:7], state.clone(), *args[8:])
    cache = empty_pages("fp8_kv", -(-count // 5), 5, dim, rope)
    (got,) = gpu.run("compressor", (*args, cache, slots))
    assert near("compressor", (got,), copy)
    reference.compressor(*copy)
    assert torch.equal(state, copy[7])
    want = empty_pages("fp8_kv", -(-count // 5), 5, dim, rope)
    pages.write_rows(want, got, slots, rope, "fp8")
    assert torch.equal(raw(cache), raw(want))


def test_what_cannot_be_refused_without_waiting_becomes_nan(gpu: EmulatedGpu) -> None:
    draw = Draw(FP32, 2)
    rows = (draw.normal(8, 32), draw.normal(8, 32), draw.normal(4, 32), draw.normal(16), rope_frequencies(4, 1e4))

    def entries(start: int, count: int) -> Tensor:
        where = (int32(0, 8), int32(start), None, None, 4, True, 1e-6, "none", count, BF16)
        return gpu.run("compressor", (*rows, *where))[0]

    assert entries(0, 3).isnan().all(1).tolist() == [False, False, True]  # an entry that no sequence has
    assert entries(4, 2).isnan().all(1).tolist() == [True, False]  # its window reaches into a state that is not there


@pytest.mark.parametrize("quant", ["hadamard_fp4", "hadamard_fp8"])
def test_a_broken_key_is_packed_as_nan_and_disturbs_no_other(gpu: EmulatedGpu, quant: str) -> None:
    draw = Draw(FP32, 3)
    rows = (draw.normal(12, 128), draw.normal(12, 128), draw.normal(4, 128), draw.normal(128))
    rows[0][5, 40] = torch.nan
    entries, cache, _ = pooled(gpu, rows, [(0, 12)], 4, False, quant, 64)
    row = _C.row_format(FORMAT[quant], 128, 0, 2).row
    read = pages.read_keys(cache[: 3 * row].view(1, 3, row), torch.arange(3), 128)
    assert entries.isnan().any(1).tolist() == [False, True, False]
    assert torch.equal(read.isnan(), entries.isnan()) and torch.equal(read[::2], entries[::2])
