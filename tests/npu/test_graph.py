"""Our launchers under torch.npu.NPUGraph: captured once, run again on other contents of the same tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import v4npu
from v4npu import ops, reference
from v4npu.reference import pages
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.ascend_ops import OPS
from v4npu.testing.attention import Shape, problem
from v4npu.testing.cases import arguments, experts_problem


def on_npu(values: tuple[Any, ...]) -> list[Any]:
    return [v.npu() if isinstance(v, Tensor) else v for v in values]


def run(op: str, values: list[Any]) -> list[Tensor]:
    result = getattr(ops, op)(*values)
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("op", OPS)
def test_a_captured_launch_takes_what_the_tensors_hold_when_it_runs(op: str) -> None:
    with v4npu.fallback("error"):
        first, second = arguments(op), arguments(op, seed=1)
        held, graph = on_npu(first), torch.npu.NPUGraph()
        run(op, held)  # what is loaded once is loaded outside of the graph
        with torch.npu.graph(graph):
            captured = run(op, held)
        for contents in (second, first):
            wanted = run(op, on_npu(contents))
            for tensor, value in zip(held, contents, strict=True):
                if isinstance(tensor, Tensor):
                    tensor.copy_(value)
            graph.replay()
            for got, want in zip(captured, wanted, strict=True):
                assert torch.equal(got.cpu().view(torch.uint8), want.cpu().view(torch.uint8))


def test_a_captured_plan_follows_the_lengths() -> None:
    """The same launch arguments, other lengths: the device makes the plan anew."""
    ratio, block_size, max_blocks = 4, 16, 12
    q, weights, keys = torch.randn(6, 8, 32), torch.randn(6, 8), torch.randn(2 * max_blocks, block_size, 32)
    table, cu, start = torch.arange(2 * max_blocks).int().view(2, -1), torch.tensor([0, 2, 6]), torch.tensor([700, 20])
    held, graph = [t.npu() for t in (q, weights, keys, table, cu.int(), start.int())], torch.npu.NPUGraph()
    with v4npu.fallback("error"):
        ops.indexer_scores(*held, ratio, False)
        with torch.npu.graph(graph):
            captured = ops.indexer_scores(*held, ratio, False)
    for lengths, starts in (([0, 2, 6], [700, 20]), ([0, 5, 6], [0, 650]), ([0, 0, 0], [0, 0]), ([0, 0, 6], [9, 763])):
        held[4].copy_(torch.tensor(lengths))
        held[5].copy_(torch.tensor(starts))
        graph.replay()
        wanted = reference.indexer_scores(*(t.cpu() for t in held), ratio, False)
        torch.testing.assert_close(captured.cpu(), wanted, rtol=1e-4, atol=1e-4)


def test_a_captured_attention_follows_the_lengths() -> None:
    args = problem("hca_attention", 48, True, True, shape=Shape((2, 4), (700, 760), 20, heads=3))
    held, graph = on_npu(args), torch.npu.NPUGraph()
    with v4npu.fallback("error"):
        run("hca_attention", held)
        with torch.npu.graph(graph):
            captured = run("hca_attention", held)[0]
    cu, start = held[5:7]
    for lengths, starts in (([0, 2, 6], [700, 760]), ([0, 5, 6], [0, 650]), ([0, 0, 0], [0, 0]), ([0, 0, 6], [9, 700])):
        cu.copy_(torch.tensor(lengths))
        start.copy_(torch.tensor(starts))
        graph.replay()
        wanted = reference.hca_attention(*(t.cpu() if isinstance(t, Tensor) else t for t in held))
        known = lengths[-1]
        torch.testing.assert_close(captured.cpu()[:known], wanted[:known], rtol=0.02, atol=0.01)


def test_captured_experts_follow_the_choices() -> None:
    """One expert for all tokens, others for each, one that there is not."""
    args = (*experts_problem(18, 6, "fp4", topk=2, d=64, width=32), 10.0, True)
    held, graph = on_npu(args), torch.npu.NPUGraph()
    with v4npu.fallback("error"):
        run("moe_experts", held)
        with torch.npu.graph(graph):
            captured = run("moe_experts", held)[0]
        choices, spread = torch.full((18, 2), 5), torch.arange(36).view(18, 2) % 6
        for value in (choices, spread, torch.where(spread == 2, 6, spread)):
            held[1].copy_(value)
            graph.replay()
            got, wanted = captured.cpu(), run("moe_experts", held)[0].cpu()
            assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))
            known = (value < 6).all(1)
            exact = reference.moe_experts(args[0][known], value[known].int(), args[2][known], *args[3:])
            torch.testing.assert_close(got[known], exact, rtol=0.02, atol=0.01)
            assert got[~known].isnan().all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_captured_store_follows_the_slots(packed: bool) -> None:
    q, kv, weight = torch.randn(5, 2, 192).bfloat16(), torch.randn(5, 192).bfloat16(), torch.randn(192).bfloat16()
    empty = torch.zeros(2, 4, 264, dtype=torch.uint8) if packed else torch.zeros(2, 4, 192, dtype=torch.bfloat16)
    where = torch.arange(5), rope_frequencies(64, 10000.0)
    held, graph = on_npu((q, kv, weight, *where, 1e-6, packed, empty, torch.arange(5))), torch.npu.NPUGraph()
    with v4npu.fallback("error"):
        run("qkv_prepare", held)
        with torch.npu.graph(graph):
            captured = run("qkv_prepare", held)[1]
        for slots in (torch.tensor([7, -1, 0, 3, 4]), torch.full((5,), -1), torch.tensor([1, 6, -9, 2, 5])):
            held[7].zero_()
            held[8].copy_(slots)
            graph.replay()
            cache, rows, stored = held[7].cpu(), captured.cpu(), slots >= 0
            wanted = torch.zeros(8, 192, dtype=torch.bfloat16)
            wanted[slots[stored]] = rows[stored]
            assert torch.equal(pages.read_kv(cache, torch.arange(8), 192, 64), wanted)
            assert not stored.any() or wanted.any()


def test_whatever_waits_cannot_be_captured() -> None:
    x = torch.ones(8, device="npu")
    for wait in (lambda: x.cpu(), lambda: torch.npu.synchronize(), lambda: torch.npu.current_stream().synchronize()):
        with pytest.raises(RuntimeError, match="captured"), torch.npu.graph(torch.npu.NPUGraph()):
            wait()
    assert (x + x).sum().item() == 16


def test_nothing_runs_before_the_graph_does() -> None:
    x, graph = torch.zeros(8, device="npu"), torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        x += 1
    assert x.sum().item() == 0
    for _ in range(3):
        graph.replay()
    assert x.sum().item() == 24
