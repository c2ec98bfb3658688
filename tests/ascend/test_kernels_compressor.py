"""The compressor on the emulated chips against the reference: windows open at every place, rounding, packed rows."""

from __future__ import annotations

import pytest
import torch
from test_kernels import ARCHS, normal

from v4npu import reference
from v4npu.reference.pages import read_kv, write_rows
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.compare import complaint
from v4npu.testing.tolerances import ERROR_RATIO

F64 = torch.float64


def call(starts, lengths, ratio, overlap, dim, states=None, rope_dim=16, seed=0):
    """Arguments of compressor up to eps: sequences after earlier tokens; states have a gap in between."""
    cols, tokens, ring = (1 + overlap) * dim, sum(lengths), (1 + overlap) * ratio + 3
    kv, score, ape = normal(tokens, cols, seed=seed), normal(tokens, cols, seed=seed + 1), normal(ratio, cols, seed=2)
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    if states is None:
        states = normal(len(starts) + 1, 2, ring, cols + 1, seed=3).flatten(1)[:, : 2 * ring * cols]
        states = states.unflatten(1, (2, ring, cols))
    slots = torch.arange(len(starts)).flip(0).int()
    where = (rope_frequencies(rope_dim, 160000.0), cu, torch.tensor(starts).int())
    return [kv, score, ape, normal(dim, seed=4), *where, states, slots, ratio, overlap, 1e-6]


def entries_of(starts, lengths, ratio):
    return sum((start + n) // ratio - start // ratio for start, n in zip(starts, lengths, strict=True))


def copied(args, dtype=None):
    """The arguments; in another dtype all but the frequencies."""
    floats = [x.clone() if isinstance(x, torch.Tensor) else x for x in args]
    return [x.to(dtype) if dtype and i in (0, 1, 2, 3, 7) else x for i, x in enumerate(floats)]


def assert_entries(got, args, quant, count, dtype):
    exact = reference.compressor(*copied(args, F64), quant, count, F64)
    naive = reference.compressor(*copied(args), quant, count, dtype)
    assert not complaint(got, naive, exact, ERROR_RATIO["compressor"])


@pytest.mark.parametrize("ratio,overlap,dim", [(4, True, 24), (128, False, 20), (3, False, 16), (5, True, 520)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sku", ARCHS)
def test_windows_open_at_every_place(emulated, sku, dtype, ratio, overlap, dim):
    """Each sequence begins at another place of a window, later ones behind a whole window; every second ends inside."""
    starts = [*range(ratio), *range(2 * ratio, 2 * ratio + 3)]
    lengths = [(ratio + 2) * (b % 2) + (b % 7 == 2) for b in range(len(starts))]
    args, count = call(starts, lengths, ratio, overlap, dim), entries_of(starts, lengths, ratio)
    ours, theirs = copied(args), copied(args)
    got = emulated(sku).compressor(*ours, "none", count, dtype)
    assert_entries(got, args, "none", count, dtype)
    reference.compressor(*theirs, "none", count, dtype)
    assert torch.equal(ours[7], theirs[7])  # what is not of a new token is as it was


@pytest.mark.parametrize("ratio,overlap", [(4, True), (128, False)])
@pytest.mark.parametrize("sku", ARCHS)
def test_any_chunks_give_the_same_bits(emulated, sku, ratio, overlap):
    length = 5 * ratio + 3
    whole = call([0], [length], ratio, overlap, 16)
    wanted = emulated(sku).compressor(*copied(whole), "none", 5, torch.float32)
    for sizes in ([1] * 9, [ratio - 1, 2, ratio], [2 * ratio + 1, 1]):
        args, at, found = copied(whole), 0, []
        for size in [*sizes, length - sum(sizes)]:
            part = (args[0][at : at + size], args[1][at : at + size], *args[2:5], torch.tensor([0, size]).int())
            count = (at + size) // ratio - at // ratio
            found.append(
                emulated(sku).compressor(*part, torch.tensor([at]).int(), *args[7:], "none", count, args[0].dtype)
            )
            at += size
        assert torch.equal(torch.cat(found), wanted)


@pytest.mark.parametrize("quant,dim,row", [("none", 24, 48), ("fp8", 144, 128 + 32 + 8), ("fp8", 320, 256 + 128 + 8),
                                           ("hadamard_fp4", 128, 68), ("hadamard_fp4", 32, 17),
                                           ("hadamard_fp8", 128, 132), ("hadamard_fp8", 32, 36)])  # fmt: skip
@pytest.mark.parametrize("sku", ARCHS)
def test_rounded_and_stored_rows(emulated, sku, quant, dim, row):
    """Codes of keys are the reference's to the byte; those of kv give its values. Some slots are none."""
    rope_dim, bf16 = 64 if dim == 320 else 16, torch.bfloat16
    args = call([2, 0, 7], [9, 0, 6], 4, True, dim, rope_dim=rope_dim)
    slots = torch.tensor([5, -1, 0, 11, 12, 3])[: entries_of([2, 0, 7], [9, 0, 6], 4)]
    shape, packed = (4, 3, row), quant != "none"
    cache = torch.full(shape, 7, dtype=torch.uint8) if packed else torch.zeros(4, 3, dim, dtype=bf16)
    wanted = cache.clone()
    got = emulated(sku).compressor(*copied(args), quant, len(slots), bf16, cache, slots)
    assert_entries(got, args, quant, len(slots), bf16)
    kept = slots.where(slots < 12, -1)
    write_rows(wanted, got, kept, rope_dim, quant)
    if quant != "fp8":
        assert torch.equal(cache, wanted)
        return
    at = kept[kept >= 0]
    assert torch.equal(read_kv(cache, at, dim, rope_dim), got[kept >= 0])
    others = torch.ones(12, dtype=torch.bool)
    others[at] = False
    payload = cache.flatten(1)[:, : 3 * (row - 8)].reshape(12, -1)
    assert (payload[others] == 7).all()


@pytest.mark.parametrize("sku", ARCHS)
def test_what_a_call_does_not_have(emulated, sku):
    """No states: nothing was before. Entries that the lengths do not give are NaN; a slot of no state is left alone."""
    args = call([0, 0], [6, 9], 4, True, 16)
    with_states = emulated(sku).compressor(*copied(args), "none", 3, torch.float32)
    args[7:9] = None, None
    got = emulated(sku).compressor(*args, "none", 4, torch.float32)
    assert torch.equal(got[:3], with_states) and got[3].isnan().all()
    args = call([5, 5], [6, 9], 4, True, 16)
    args[8] = torch.tensor([-1, 3]).int()
    states = args[7].clone()
    assert emulated(sku).compressor(*args, "none", 3, torch.float32).isfinite().all()
    assert torch.equal(args[7], states)
