"""Launchers of the operators over pages that have several launches, against the reference."""

from __future__ import annotations

import pytest
import torch

import v4npu
from v4npu import ops, reference
from v4npu.reference.pages import read_keys, read_kv, write_rows
from v4npu.reference.rope import rope_frequencies


@pytest.mark.parametrize(
    ("start", "blocks"), [(40000, 160), (900, 1 << 17)], ids=["parts of a token", "tokens one after the other"]
)
def test_picks_are_those_of_all_scores_at_once(start: int, blocks: int) -> None:
    """Exact scores, many of them equal; room for 2^23 entries is more than scores of three tokens may take."""
    q, weights, keys = (torch.randint(-3, 4, shape).float() for shape in ((3, 4, 16), (3, 4), (160, 64, 16)))
    table = torch.arange(blocks).clamp(max=159).int()[None]
    where = table, torch.tensor([0, 3]).int(), torch.tensor([start]).int()
    with v4npu.fallback("error"):
        got = ops.indexer_topk(*(t.npu() for t in (q, weights, keys, *where)), 4, 600, False)
    assert torch.equal(got.cpu(), reference.indexer_topk(q, weights, keys, *where, 4, 600, False))


@pytest.mark.parametrize(("quant", "row"), [("hadamard_fp4", 34), ("hadamard_fp8", 68)])
def test_picks_among_packed_keys(quant: str, row: int) -> None:
    q, weights, keys = (torch.randint(-3, 4, shape).bfloat16() for shape in ((5, 4, 64), (5, 4), (160, 64)))
    cache, where = torch.zeros(10, 16, row, dtype=torch.uint8), torch.randperm(160)
    write_rows(cache, keys, where, 0, quant)
    given = q, weights, cache, torch.arange(10).int()[None], torch.tensor([0, 5]).int(), torch.tensor([500]).int()
    with v4npu.fallback("error"):
        got = ops.indexer_topk(*(t.npu() for t in given), 4, 30, False)
        scores = ops.indexer_scores(*(t.npu() for t in given), 4, False)
    assert torch.equal(got.cpu(), reference.indexer_topk(*given, 4, 30, False))
    assert torch.equal(scores.cpu(), reference.indexer_scores(*given, 4, False))


@pytest.mark.parametrize(
    ("quant", "dim", "row"),
    [("none", 40, 0), ("fp8", 192, 264), ("hadamard_fp4", 128, 68), ("hadamard_fp8", 128, 132), ("fp8", 192, 0)],
)
def test_a_captured_compressor_follows_lengths_states_and_slots(quant: str, dim: int, row: int) -> None:
    """One graph for calls whose entries are as many."""
    rope_dim, bf16, cols = 64 if quant == "fp8" else 16, torch.bfloat16, 2 * dim
    kv, score, ape, states = (torch.randn(n, cols) for n in (9, 9, 4, 3 * 2 * 9))
    cache = torch.zeros(2, 3, row, dtype=torch.uint8) if row else torch.zeros(2, 3, dim, dtype=bf16)
    cu, start, which, slots = (torch.tensor(x).int() for x in ([0, 4, 9], [6, 0], [2, 0], [4, 1]))
    given = (kv, score, ape, torch.randn(dim), rope_frequencies(rope_dim, 1e4), cu, start, states.view(3, 2, 9, cols))
    held = [x.npu() for x in (*given, which, cache, slots.long())]
    rest, graph = (4, True, 1e-6, quant, 2, bf16), torch.npu.NPUGraph()
    with v4npu.fallback("error"):
        ops.compressor(*held[:9], *rest, *held[9:])
        with torch.npu.graph(graph):
            captured = ops.compressor(*held[:9], *rest, *held[9:])
    for lengths, starts, ring, to in (([0, 6, 9], [7, 0], [1, 0], [4, 1]), ([0, 9, 9], [130, 2], [0, 2], [0, -1])):
        for tensor, value in zip((held[5], held[6], held[8], held[10]), (lengths, starts, ring, to), strict=True):
            tensor.copy_(torch.tensor(value))
        held[9].zero_()
        before = [x.cpu() for x in held]
        graph.replay()
        wanted = reference.compressor(*before[:9], *rest)
        assert torch.equal(held[7].cpu(), before[7])
        torch.testing.assert_close(captured.cpu(), wanted, rtol=0.3 if "fp4" in quant else 0.07, atol=0.04)
        at = torch.tensor(to)[torch.tensor(to) >= 0]
        stored = read_kv(held[9].cpu(), at, dim, rope_dim) if quant == "fp8" else read_keys(held[9].cpu(), at, dim)
        assert torch.equal(stored, captured.cpu()[torch.tensor(to) >= 0]) and stored.any()
