"""CUDA kernels, emulated, on values and sizes that the shared cases leave out."""

from __future__ import annotations

import pytest
import torch

from v4npu import reference
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.cases import Draw
from v4npu.testing.cuda import EmulatedGpu

BF16 = torch.bfloat16


def same(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(g.view(torch.uint8), w.view(torch.uint8)) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("op", ["act_quant", "fp4_act_quant"])
def test_quantisers_on_every_bfloat16(gpu: EmulatedGpu, op: str) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(BF16)
    finite = every[every.float().isfinite()].view(-1, 1, 32)
    blocks = torch.cat([finite * 2.0**k for k in (-9, 0)], dim=1).flatten(1).clamp(-3e38, 3e38)
    assert same(gpu.run(op, (blocks, 32)), getattr(reference, op)(blocks, 32))


@pytest.mark.parametrize("n,block_size", [(7168, 128), (130, 32), (2, 8), (66, 64), (4100, 2048), (70, 7), (30, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("op", ["act_quant", "fp4_act_quant"])
def test_quantisers_in_blocks_of_any_size(
    gpu: EmulatedGpu, op: str, dtype: torch.dtype, n: int, block_size: int
) -> None:
    for factor in (1.0, 1e-7, 300.0, 1e-39, 1e30):
        x = (Draw(torch.float64, 0).normal(3, n) * factor).clamp(-3e38, 3e38).to(dtype)
        x[1] *= 0
        assert same(gpu.run(op, (x, block_size)), getattr(reference, op)(x, block_size))


def test_a_nan_is_the_scale_of_its_fp4_block(gpu: EmulatedGpu) -> None:
    x = torch.ones(2, 64)
    x[1, 40] = torch.nan
    _, scale = gpu.run("fp4_act_quant", (x, 32))
    assert (scale.view(torch.uint8) == 255).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("heads,head_dim,rope_dim", [(64, 128, 64), (9, 256, 64), (3, 32, 16), (5, 64, 64), (2, 4, 2)])
def test_indexer_query(gpu: EmulatedGpu, official: bool, heads: int, head_dim: int, rope_dim: int) -> None:
    args = (
        Draw(BF16, 1).normal(3, heads, head_dim),
        torch.tensor([0, 5, 2**20 - 1]),
        rope_frequencies(rope_dim, 160000.0),
    )
    got, want = gpu.run("indexer_query", (*args, official))[0], reference.indexer_query(*args, official)
    # The host's and torch's sines may differ in the last bit; where a value then rounds the other way, its block may.
    assert float((got != want).float().mean()) < 0.01
    exact = reference.indexer_query(args[0].double(), *args[1:], official)
    assert (got - exact).abs().max() <= 1.5 * (want - exact).abs().max() + 2.0**-9 * exact.abs().max()


@pytest.mark.parametrize("heads,head_dim,rope_dim", [(64, 512, 64), (3, 7, 4), (2, 2048, 2048), (70, 96, 96)])
def test_rope_forth_and_back(gpu: EmulatedGpu, heads: int, head_dim: int, rope_dim: int) -> None:
    x, positions = Draw(torch.float32, 2).normal(3, heads, head_dim), torch.tensor([0, 131071, 2**20 - 1])
    freqs = rope_frequencies(rope_dim, 160000.0)
    (turned,) = gpu.run("rope", (x, positions, freqs, False))
    assert (turned - reference.rope(x.double(), positions, freqs)).abs().max() < 1e-5
    assert torch.equal(turned[..., : head_dim - rope_dim], x[..., : head_dim - rope_dim])
    (back,) = gpu.run("rope", (turned, positions, freqs, True))
    assert (back - x).abs().max() < 1e-5


def test_gate_prefers_the_smaller_index_and_bears_extreme_logits(gpu: EmulatedGpu) -> None:
    x, weight = torch.ones(2, 8), torch.zeros(70, 8)
    indices, _ = gpu.run("gate", (x, weight, None, 5, 1.0))
    assert indices.tolist() == [[0, 1, 2, 3, 4]] * 2
    weight[:4, 0] = torch.tensor([100.0, -80.0, 30.0, -60.0])
    indices, weights = gpu.run("gate", (x, weight[:4], None, 4, 1.0))
    exact_indices, exact = reference.gate(x.double(), weight[:4], None, 4, 1.0)
    assert torch.equal(indices, exact_indices)
    assert ((weights.double() - exact).abs() <= 1e-5 * exact + 1e-30).all()
    weight[65] = torch.nan
    indices, weights = gpu.run("gate", (x, weight, None, 2, 1.0))
    assert indices[0].tolist() == [65, 0] and weights.isnan().all()


def test_gate_at_the_size_of_the_model(gpu: EmulatedGpu) -> None:
    draw = Draw(BF16, 3)
    x, weight, bias = draw.normal(9, 4096), draw.normal(256, 4096) / 64, draw.normal(256, dtype=torch.float32)
    indices, weights = gpu.run("gate", (x, weight, bias, 6, 2.5))
    want_indices, want = reference.gate(x.double(), weight.double(), bias.double(), 6, 2.5)
    assert torch.equal(indices, want_indices)
    assert (weights - want).abs().max() < 1e-6


@pytest.mark.parametrize("bad", [-1, 40])
def test_ids_and_experts_out_of_range_read_nothing_and_give_nan(gpu: EmulatedGpu, bad: int) -> None:
    draw = Draw(torch.float32, 4)
    table, ids = draw.integers(6, 40, 3), torch.tensor([7, bad, 9])
    table[9, 1] = 6
    indices, weights = gpu.run("hash_gate", (draw.normal(3, 64), draw.normal(6, 64), table, ids, 1.5))
    assert torch.equal(indices[0].long(), table[7]) and not weights[0].isnan().any()
    assert indices[1].tolist() == [0, 0, 0] and weights[1].isnan().all()
    assert indices[2, 1] == 0 and weights[2].isnan().all()


@pytest.mark.parametrize("streams,hidden", [(4, 4096), (4, 7168), (2, 30), (16, 64)])
def test_hyper_connections_at_several_widths(gpu: EmulatedGpu, streams: int, hidden: int) -> None:
    draw, m = Draw(BF16, 5), streams
    x = draw.normal(2, m, hidden)
    fn = draw.normal((2 + m) * m, m * hidden, dtype=torch.float32) * (m * hidden) ** -0.5
    scale, base = draw.normal(3, dtype=torch.float32), draw.normal((2 + m) * m, dtype=torch.float32)
    args = (x, fn, scale, base, 1e-6, 1e-6, 20)
    wide = tuple(a.double() if isinstance(a, torch.Tensor) else a for a in args)
    got, naive, exact = gpu.run("hc_pre", args), reference.hc_pre(*args), reference.hc_pre(*wide)
    for g, n, e in zip(got, naive, exact, strict=True):
        error = (g.double() - e).abs().max()
        assert error <= 1.5 * (n.double() - e).abs().max() + torch.finfo(g.dtype).eps / 2 * e.abs().max()
