"""CPU kernels over pages: a token's result depends on its own sequence alone, bit for bit, however it is called."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.reference import pages
from v4npu.reference.formats import round_fp4
from v4npu.reference.qkv_prepare import round_kv
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.cases import Draw, int32
from v4npu.testing.paging import QUANT

TOKENS, HEADS, DIM, ROPE, WINDOW, RATIO = 41, 40, 80, 16, 8, 4  # two threads take 32 and 8 heads
ATTENTIONS = ["window_attention", "csa_attention", "hca_attention"]
INDEXERS = ["indexer_scores", "indexer_topk"]
KINDS = [(torch.float32, False, False), (torch.bfloat16, False, False), (torch.bfloat16, True, False),
         (torch.bfloat16, True, True)]  # dtype, official, packed  # fmt: skip


pytestmark = pytest.mark.usefixtures("isa")


def paged(rows: Tensor, block: int, seed: int, quant: str = "", rope: int = ROPE) -> tuple[Tensor, Tensor]:
    """Rows in shuffled pages that lie apart in a pool of 0xFF (NaN), and their table with one place too many (-1)."""
    count = -(-len(rows) // block)
    row = rows[0].nbytes if not quant else _C.row_format(quant, rows.shape[1], rope, 2).row
    pool = torch.full((count + 2, block * row + 64), 0xFF, dtype=torch.uint8)
    cache = pool[:, : block * row].unflatten(1, (block, row))
    cache = cache if quant else pool.view(rows.dtype)[:, : block * rows.shape[1]].unflatten(1, (block, -1))
    table = torch.randperm(count + 2, generator=torch.Generator().manual_seed(seed))[:count].int()
    at = pages.slots(table, torch.arange(len(rows)), block)
    pages.write_rows(cache, rows, at, rope, "fp8" if quant == "fp8_kv" else "hadamard_fp4")
    return cache, torch.cat((table, int32(-1)))


def cuts(seed: int, tokens: int = TOKENS) -> list[tuple[int, int]]:
    """Consecutive calls that make up the sequence: some of one token."""
    at = torch.rand(tokens - 1, generator=torch.Generator().manual_seed(seed)).argsort()[:7].sort().values + 1
    edges = [0, *at.tolist(), tokens]
    return list(pairwise(edges))


def problem(op: str, dtype: torch.dtype, packed: bool) -> tuple[Tensor, ...]:
    """Per token tensors, then rows of the window and entries (attention) or keys (indexer)."""
    draw = Draw(dtype, 3)
    if op in INDEXERS:
        keys = draw.normal(TOKENS // RATIO, 32)
        return draw.normal(TOKENS, HEADS, 32), draw.normal(TOKENS, HEADS), round_fp4(keys) if packed else keys
    rows, entries = draw.normal(TOKENS, DIM), draw.normal(TOKENS // RATIO, DIM)
    if packed:
        rows, entries = (round_kv(r, ROPE) for r in (rows, entries))
    visible = ((torch.arange(TOKENS) + 1) // RATIO).unsqueeze(1)
    picks = draw.distinct(TOKENS // RATIO, TOKENS, 6)
    return draw.normal(TOKENS, HEADS, DIM), picks.where(picks < visible, -1), rows, entries


def call(
    op: str, data: tuple[Tensor, ...], calls: list[tuple[int, int]], block: int, seed: int, how: tuple,
    freqs: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The operator over the parts of the sequence, each a call of its own."""
    _, official, packed = how
    out = []
    for lo, hi in calls:
        where = (int32(0, hi - lo), int32(lo))
        if op in INDEXERS:
            q, weights, keys = data
            cache, table = paged(keys, block, seed, "fp4_key" if packed else "")
            extra = (RATIO, 7, official) if op == "indexer_topk" else (RATIO, official)
            part = getattr(torch.ops.v4npu, op)(q[lo:hi], weights[lo:hi], cache, table[None], *where, *extra)
            out.append(part[:, : TOKENS // RATIO])
            continue
        q, picks, rows, entries = data
        kind = "fp8_kv" if packed else ""
        window, window_table = paged(rows, block, seed, kind)
        window_table[: max(0, lo - WINDOW + 1) // block] = -1  # pages that have left the window
        known, table = paged(entries, block, seed + 1, kind)
        args = [q[lo:hi], window, window_table[None]]
        args += [known, table[None]] if op != "window_attention" else []
        args += [picks[lo:hi]] if op == "csa_attention" else []
        tail = (*where, torch.linspace(-2, 3, HEADS), DIM**-0.5, WINDOW)
        tail += (RATIO,) if op == "hca_attention" else ()
        positions = None if freqs is None else torch.arange(lo, hi)
        out.append(getattr(torch.ops.v4npu, op)(*args, *tail, ROPE, official, positions, freqs))
    return torch.cat(out)


@pytest.mark.parametrize("how", KINDS, ids=str)
@pytest.mark.parametrize("op", ATTENTIONS + INDEXERS)
def test_neither_chunks_nor_pages_nor_threads_show(op: str, how: tuple) -> None:
    data = problem(op, how[0], how[2])
    whole = call(op, data, [(0, TOKENS)], 4, 0, how)
    assert not whole.isnan().any()
    threads = torch.get_num_threads()
    try:
        for seed, block, count in ((1, 1, 1), (2, 7, 2), (3, 64, 2)):
            torch.set_num_threads(count)
            assert torch.equal(call(op, data, cuts(seed), block, seed, how), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("how", KINDS, ids=str)
@pytest.mark.parametrize("dim", [208, 224])  # one that pairs of 32 do not divide, and one that they do
@pytest.mark.parametrize("op", ATTENTIONS)
def test_one_token_by_all_threads_is_as_by_one(op: str, dim: int, how: tuple) -> None:
    """A decode step of few heads and many rows: its places and its dims are shared out."""
    dtype, official, packed = how
    draw, heads, seen = Draw(dtype, 4), 9, 203
    rows, entries = draw.normal(seen, dim), draw.normal(seen, dim)
    if packed:
        rows, entries = (round_kv(r, ROPE) for r in (rows, entries))
    kind = "fp8_kv" if packed else ""
    window, known = paged(rows, 16, 0, kind), paged(entries, 16, 1, kind)
    picks = draw.distinct(seen, 1, 190)
    picks[0, 3:20] = picks[0, 93 - WINDOW :: 16] = -1  # of 16 places an odd number of rows
    args = [draw.normal(1, heads, dim), window[0], window[1][None]]
    args += [known[0], known[1][None]] if op != "window_attention" else []
    args += [picks] if op == "csa_attention" else []
    args += [int32(0, 1), int32(seen - 1), torch.linspace(-2, 3, heads), dim**-0.5, seen if len(args) < 4 else WINDOW]
    args += [1] if op == "hca_attention" else []
    args += [ROPE, official, torch.tensor([seen - 1]), rope_frequencies(24, 160000.0)]
    threads, out = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            out.append(getattr(torch.ops.v4npu, op)(*args))
    finally:
        torch.set_num_threads(threads)
    assert not out[0].isnan().any() and torch.equal(out[1], out[0]) and torch.equal(out[2], out[0])


@pytest.mark.parametrize("how", KINDS, ids=str)
@pytest.mark.parametrize("op", ATTENTIONS)
def test_a_result_is_turned_back_as_by_rope(op: str, how: tuple) -> None:
    data, freqs = problem(op, how[0], how[2]), rope_frequencies(24, 160000.0)
    turned = call(op, data, cuts(1), 7, 0, how, freqs)
    plain = call(op, data, cuts(1), 7, 0, how)
    assert torch.equal(turned, torch.ops.v4npu.rope(plain, torch.arange(TOKENS), freqs, True))
    assert not torch.equal(turned, plain)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("op", ATTENTIONS)
def test_packed_rows_mean_what_plain_ones_do(op: str, official: bool) -> None:
    data = problem(op, torch.bfloat16, True)
    calls = [(0, TOKENS)]
    plain = call(op, data, calls, 4, 0, (torch.bfloat16, official, False))
    assert torch.equal(call(op, data, calls, 4, 0, (torch.bfloat16, official, True)), plain)


def compress(data: tuple[Tensor, ...], calls: list, quant: str, overlap: bool, block: int, ring: int) -> tuple:
    """All entries of one sequence by a state that starts as NaN, and the bytes of the cache that they went to."""
    kv, score, ape, weight = data
    dim, count = weight.shape[0], len(kv) // RATIO
    (kind,) = [kind for kind, of in QUANT.items() if of == quant]
    row = _C.row_format(kind, dim, ROPE, 2).row
    cache = torch.full((-(-count // block), block, row), 0xA5, dtype=torch.uint8)
    to = cache.view(torch.bfloat16) if quant == "none" else cache
    state = torch.full((3, 2, ring, kv.shape[1]), torch.nan)
    out = []
    for lo, hi in calls:
        slots = torch.arange(lo // RATIO, hi // RATIO)
        sequence = (int32(0, hi - lo), int32(lo), state, int32(1), RATIO, overlap, 1e-6, quant)
        args = (kv[lo:hi], score[lo:hi], ape, weight, rope_frequencies(ROPE, 10000.0), *sequence, len(slots))
        out.append(torch.ops.v4npu.compressor(*args, torch.bfloat16, to, slots))
    assert state[[0, 2]].isnan().all()
    return torch.cat(out), cache, state[1]


@pytest.mark.parametrize("quant", QUANT.values())
@pytest.mark.parametrize("overlap", [False, True])
def test_compressor_in_any_chunks(quant: str, overlap: bool) -> None:
    draw, dim = Draw(torch.float32, 5), 64 if quant.startswith("hadamard") else 112
    cols = dim * (1 + overlap)
    data = draw.normal(TOKENS, cols), draw.normal(TOKENS, cols), draw.normal(RATIO, cols), draw.normal(dim)
    entries, cache, state = compress(data, [(0, TOKENS)], quant, overlap, 5, 16)
    assert not entries.isnan().any()
    for seed in range(4):
        again, same, after = compress(data, cuts(seed), quant, overlap, 5, 16)
        assert torch.equal(again, entries) and torch.equal(same, cache)
        assert torch.equal(after.nan_to_num(), state.nan_to_num())
    if quant != "none":  # the bytes are those of the reference's packing
        want = torch.full_like(cache, 0xA5)
        pages.write_rows(want, entries, torch.arange(len(entries)), ROPE, quant)
        assert torch.equal(cache, want)


def test_qkv_prepare_packs_as_the_reference_does() -> None:
    draw = Draw(torch.bfloat16, 1)
    args = draw.normal(TOKENS, 2, DIM), draw.normal(TOKENS, DIM), draw.normal(DIM) * 0.01
    cache = torch.full((7, 6, _C.row_format("fp8_kv", DIM, ROPE, 2).row), 0xA5, dtype=torch.uint8)
    want, slots = cache.clone(), torch.arange(TOKENS).flip(0)
    rest = torch.arange(TOKENS), rope_frequencies(ROPE, 10000.0), 1e-6, True
    _, kv = torch.ops.v4npu.qkv_prepare(*args, *rest, cache, slots)
    pages.write_rows(want, kv, slots, ROPE, "fp8")
    assert torch.equal(cache, want)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("op", ATTENTIONS)
def test_a_nan_reaches_only_who_sees_it(op: str, official: bool) -> None:
    how = (torch.bfloat16, official, True)
    data = list(problem(op, torch.bfloat16, True))
    clean = call(op, tuple(data), [(0, TOKENS)], 4, 0, how)
    data[2] = data[2].clone()
    data[2][20, 3] = torch.nan
    dirty = call(op, tuple(data), [(0, TOKENS)], 4, 0, how)
    seen = torch.zeros(TOKENS, dtype=torch.bool)
    seen[20 : 20 + WINDOW] = True
    assert dirty[seen].isnan().all() and torch.equal(dirty[~seen], clean[~seen])


@pytest.mark.parametrize("topk", [1, 5, 700])
def test_picks_of_nan_infinite_and_equal_scores(topk: int) -> None:
    """NaN is the largest, -inf no pick, and of equals the smaller index comes first; parts of threads do not show."""
    count = 6000
    keys = torch.arange(count).remainder(7).float().unsqueeze(1)
    keys[::997], keys[5::1000] = torch.nan, torch.inf
    cache, table = paged(keys, 64, 0)
    args = (torch.ones(1, 1, 1), torch.ones(1, 1), cache, table[None], int32(0, 1), int32(count - 1), 1, topk, False)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert torch.equal(torch.ops.v4npu.indexer_topk(*args), reference.indexer_topk(*args))
    finally:
        torch.set_num_threads(threads)
    hidden = torch.ops.v4npu.indexer_topk(args[0], -args[1] * torch.inf, *args[2:])
    assert ((hidden >= -1) & (hidden < count)).all()


@pytest.mark.parametrize("op", [*ATTENTIONS, "indexer_topk"])
def test_a_visible_hole_in_the_table_is_named(op: str) -> None:
    from v4npu.testing.cases import arguments

    args = list(arguments(op))
    at = 2 if op in ATTENTIONS else 3
    args[at] = args[at].clone()
    args[at][0, -1] = -1
    with pytest.raises(ValueError, match=rf"v4npu\.{op}: (window|block)_table must be .*, got -1 of \d"):
        getattr(torch.ops.v4npu, op)(*args)
    with pytest.raises(ValueError, match=r"names block -1 where rows are needed"):
        getattr(reference, op)(*args)
