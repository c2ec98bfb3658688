"""What the CPU kernels of the quantisers, the Hadamard transform, mHC and the gates promise beyond test_cpu_kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from v4npu import reference
from v4npu.reference.formats import round_fp4
from v4npu.reference.gate import router_scores
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.compare import defined

ops = torch.ops.v4npu
ALL_BF16 = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
QUANTISERS = {"act_quant": range(-23, 120), "fp4_act_quant": range(-127, 127)}  # every exponent a scale may have


pytestmark = pytest.mark.usefixtures("isa")


def same(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> bool:
    return all(
        a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in zip(got, want, strict=True)
    )


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# ---- quantisers, byte for byte


@pytest.mark.parametrize("op", QUANTISERS)
def test_every_bfloat16_under_every_scale(op: str) -> None:
    top = 448.0 if op == "act_quant" else 6.0
    finite = ALL_BF16[ALL_BF16.isfinite()]
    for exponent in QUANTISERS[op]:
        amax = torch.tensor(min(top * 2.0**exponent, 3.38e38), dtype=torch.float64).bfloat16()
        x = finite[finite.abs() <= amax]
        # Values further below the scale all round to zero; a sample of them is enough.
        x = torch.cat((x[x.abs() > amax * 2.0**-24], x[::257]))
        x = torch.cat((x, x.new_zeros(-len(x) % 31))).view(-1, 31)
        x = torch.cat((x, amax.expand(len(x), 1)), dim=1)
        assert same(getattr(ops, op)(x, 32), getattr(reference, op)(x, 32)), exponent


@pytest.mark.parametrize("op", QUANTISERS)
def test_any_bits(op: str) -> None:
    """NaN, infinities and subnormals too. What the codes are under a scale that is NaN is nowhere said."""
    noise = torch.randint(-(2**31), 2**31, (4096, 64), generator=torch.Generator().manual_seed(0), dtype=torch.int64)
    wide = noise.to(torch.int32).view(torch.float32)
    small = (noise & 0x80FFFFFF).to(torch.int32).view(torch.float32)
    for x in (ALL_BF16.view(-1, 64), ALL_BF16.view(64, -1).T.contiguous(), wide, small, wide * 0 + torch.inf):
        got, want = getattr(ops, op)(x, 32), getattr(reference, op)(x, 32)
        assert same(defined(op, got), defined(op, want))
        if op == "fp4_act_quant":
            assert torch.equal(got[1].float().isnan(), x.isnan().unflatten(1, (-1, 32)).any(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", [1, 2, 3, 5, 16, 17, 32, 33, 64, 100])
@pytest.mark.parametrize("op", QUANTISERS)
def test_any_block_and_any_last_block(op: str, block: int, dtype: torch.dtype) -> None:
    for n in range(2, 140, 2):
        x = draw(3, n, dtype=dtype, seed=n) * torch.exp2(torch.arange(n) % 13 - 6.0).to(dtype)
        assert same(getattr(ops, op)(x, block), getattr(reference, op)(x, block)), n


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32, 128, 512, 8192, 16384])
def test_hadamard_is_the_reference_bit_for_bit(n: int, dtype: torch.dtype) -> None:
    x = draw(3, n, dtype=dtype)
    assert same((ops.hadamard(x),), (reference.hadamard(x),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim,rope_dim", [(128, 64), (16, 8), (8, 8), (2, 2), (64, 2), (2048, 64)])
def test_indexer_query_is_its_three_steps(head_dim: int, rope_dim: int, dtype: torch.dtype) -> None:
    q, positions = draw(5, 7, head_dim, dtype=dtype), torch.tensor([0, 1, 77, 1 << 20, 5])
    freqs = rope_frequencies(rope_dim, 10000.0)
    turned = reference.rope(q, positions, freqs) if head_dim > 1024 else ops.rope(q, positions, freqs)
    assert same((ops.indexer_query(q, positions, freqs, False),), (turned,))
    assert same((ops.indexer_query(q, positions, freqs, True),), (round_fp4(reference.hadamard(turned)),))
    q[2, 3, 1] = torch.nan
    poisoned = ops.indexer_query(q, positions, freqs, True)
    clean = torch.ones(5, 7, dtype=torch.bool)
    clean[2, 3] = False
    assert poisoned[2, 3].isnan().all() and not poisoned[clean].isnan().any()


# ---- mHC and gates


@pytest.mark.parametrize("m", [1, 2, 4, 16, 17])
def test_any_number_of_streams(m: int) -> None:
    mixes, d = (2 + m) * m, 40
    streams, fn, base = draw(3, m, d), draw(mixes, m * d, seed=1) * 0.1, draw(mixes, seed=2)
    pre = (streams, fn, torch.tensor([1.0, 0.5, 2.0]), base, 1e-6, 1e-6, 20)
    post = (draw(3, d), streams, draw(3, m, seed=3), draw(3, m, m, seed=4))
    head = (streams, fn[:m], torch.ones(1), base[:m], 1e-6, 1e-6)
    torch.testing.assert_close(ops.hc_pre(*pre), reference.hc_pre(*pre), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ops.hc_post(*post), reference.hc_post(*post), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ops.hc_head(*head), reference.hc_head(*head), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens,m,d", [(0, 4, 8), (3, 4, 0), (3, 0, 8)])
def test_empty_streams(tokens: int, m: int, d: int) -> None:
    streams, fn, base = draw(tokens, m, d), draw((2 + m) * m, m * d), draw((2 + m) * m)
    pre = (streams, fn, torch.ones(3), base, 1e-6, 1e-6, 2)
    post = (draw(tokens, d), streams, draw(tokens, m), draw(tokens, m, m))
    for op, args in (("hc_pre", pre), ("hc_post", post), ("hc_head", (streams, fn[:m], torch.ones(1), base[:m], 0, 0))):
        got, want = getattr(ops, op)(*args), getattr(reference, op)(*args)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)


def model_sized(op: str, rows: int) -> tuple[tuple[Any, ...], int]:
    """Arguments of a size that threads share in every way, and how many of them belong to the rows."""
    d, bf16 = 2000, torch.bfloat16
    streams, mix = draw(rows, 4, d, dtype=bf16), (draw(24, 4 * d, seed=1) * 0.1, draw(3), draw(24))
    cases: dict[str, Any] = {
        "gate": ((draw(rows, d, dtype=bf16), draw(200, d, dtype=bf16, seed=1), draw(200), 6, 2.5), 1),
        "hc_pre": ((streams, *mix, 1e-6, 1e-6, 20), 1),
        "hc_head": ((streams, mix[0][:4], mix[1][:1], mix[2][:4], 1e-6, 1e-6), 1),
        "hc_post": ((draw(rows, d, dtype=bf16), streams, draw(rows, 4), draw(rows, 4, 4)), 4),
        "indexer_query": ((draw(rows, 64, 128), torch.arange(rows), rope_frequencies(64, 1e4), True), 2),
    }
    return cases[op]


@pytest.mark.parametrize("op", ["gate", "hc_pre", "hc_head", "hc_post", "indexer_query"])
def test_rows_stay_the_same_at_the_size_of_a_model(op: str) -> None:
    args, of_rows = model_sized(op, 150)

    def results(chosen: slice) -> tuple[Tensor, ...]:
        out = getattr(ops, op)(*(a[chosen] if i < of_rows else a for i, a in enumerate(args)))
        return out if isinstance(out, tuple) else (out,)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = results(slice(None))
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for chosen in (slice(None), slice(3, 4), slice(7, 9), slice(20, 36), slice(30, 47), slice(11, 150)):
                assert same(results(chosen), tuple(w[chosen] for w in whole))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("experts,topk", [(256, 6), (1, 1), (16, 16), (37, 8)])
def test_picks_are_the_oracle_s_where_float32_can_tell(
    experts: int, topk: int, dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    x, w = draw(300, 512, dtype=dtype), (draw(experts, 512, seed=1) * 0.05).to(weight_dtype)
    for bias in (None, draw(experts, seed=2) * 0.1):
        indices, weights = ops.gate(x, w, bias, topk, 1.5)
        want, want_weights = reference.gate(x.double(), w.double(), bias, topk, 1.5)
        choice = router_scores(x.double(), w.double())
        ordered = (choice if bias is None else choice + bias).sort(-1, descending=True).values[:, : topk + 1]
        clear = (ordered.diff(dim=-1).abs() > 1e-5).all(-1)
        assert bool(clear.sum() > 150) and torch.equal(indices[clear], want[clear])
        torch.testing.assert_close(weights[clear].double(), want_weights[clear], rtol=2e-6, atol=2e-6)
        table, ids = indices.long(), torch.arange(300)
        assert same(ops.hash_gate(x, w, table, ids, 1.5), (indices, weights))


def test_nan_in_a_gate_stays_in_its_token_and_picks_real_experts() -> None:
    x, w, bias = draw(20, 40), draw(9, 40, seed=1), draw(9, seed=2)
    clean = ops.gate(x, w, bias, 3, 1.5)
    x[4, 7] = torch.nan
    indices, weights = ops.gate(x, w, bias, 3, 1.5)
    others = torch.arange(20) != 4
    assert indices[4].tolist() == [0, 1, 2] and weights[4].isnan().all()
    assert same((indices[others], weights[others]), tuple(c[others] for c in clean))
    w[5, 0] = torch.nan  # the logit of one expert: it goes first, and makes every weight NaN
    indices, weights = ops.gate(x, w, bias, 3, 1.5)
    want, _ = reference.gate(x, w, bias, 3, 1.5)
    assert torch.equal(indices, want) and bool((indices[others][:, 0] == 5).all()) and weights.isnan().all()


def test_ties_pick_the_smaller_index_in_any_order() -> None:
    w = torch.zeros(33, 8)
    w[[4, 30, 17], 0] = 1.0
    indices, _ = ops.gate(torch.ones(1, 8), w, None, 5, 1.0)
    assert indices.tolist() == [[4, 17, 30, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["native", "reference"])
def test_hash_gate_refuses_ids_out_of_range(dtype: torch.dtype) -> None:
    x, w = draw(3, 8, dtype=dtype), draw(4, 8, dtype=dtype)
    table = torch.tensor([[0, 1], [2, 3], [1, 9], [-1, 0]])
    ops.hash_gate(x, w, table, torch.tensor([0, 1, 1]), 1.0)
    for ids, text in (
        ([0, 4, 1], "input_ids must be within the rows of tid2eid, got 4"),
        ([0, 1, -1], "input_ids must be within the rows of tid2eid, got -1"),
        ([0, 2, 1], "tid2eid must be within the experts, got 9"),
        ([3, 0, 1], "tid2eid must be within the experts, got -1"),
    ):
        with pytest.raises(ValueError, match=f"v4npu.hash_gate: {text}$"):
            ops.hash_gate(x, w, table, torch.tensor(ids), 1.0)
