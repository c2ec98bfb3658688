"""The attentions on the emulated GPU: ragged sequences, packed rows, long lists, official rounding."""

from __future__ import annotations

import pytest
import torch

from v4npu import reference
from v4npu.reference.qkv_prepare import round_kv
from v4npu.testing.cases import Draw, int32
from v4npu.testing.compare import oracle_args
from v4npu.testing.cuda import EmulatedGpu
from v4npu.testing.paging import paged

BF16 = torch.bfloat16
OPS = ["window_attention", "csa_attention", "hca_attention"]
HEADS, ROPE, WINDOW, RATIO, TOPK = 20, 16, 70, 4, 30
LENGTHS, STARTS = (3, 0, 1), (150, 5, 290)  # of three sequences, one without tokens; lists of up to 142 places


def problem(op: str, dim: int, packed: bool, official: bool, rounded: bool = False) -> tuple:
    """Arguments of `op`; `rounded`: rows in bfloat16, with the values that packed ones have."""
    draw, tokens = Draw(BF16, dim), sum(LENGTHS)
    ends = [n + s for n, s in zip(LENGTHS, STARTS, strict=True)]
    kv = [draw.normal(n, dim) for n in ends] + [draw.normal(n // RATIO, dim) for n in ends]
    kv = [round_kv(rows, ROPE) for rows in kv] if packed or rounded else kv
    picks = draw.distinct(STARTS[0] // RATIO, tokens, TOPK)
    picks[:, ::7] = -1
    where = (int32(0, *torch.tensor(LENGTHS).cumsum(0).tolist()), int32(*STARTS))
    kind = "fp8_kv" if packed else "plain"
    entries = () if op == "window_attention" else paged(kv[3:], 3, kind, ROPE)
    listed = (picks,) if op == "csa_attention" else ()
    ratio = (RATIO,) if op == "hca_attention" else ()
    sink, scale = draw.normal(HEADS, dtype=torch.float32), dim**-0.5
    q = draw.normal(tokens, HEADS, dim)
    return (q, *paged(kv[:3], 8, kind, ROPE), *entries, *listed, *where, sink, scale, WINDOW, *ratio, ROPE, official)


@pytest.mark.parametrize("packed,official", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dim", [80, 512])
@pytest.mark.parametrize("op", OPS)
def test_ragged_sequences(gpu: EmulatedGpu, op: str, dim: int, packed: bool, official: bool) -> None:
    args = problem(op, dim, packed, official)
    (got,) = gpu.run(op, args)
    assert gpu.launches()
    naive = getattr(reference, op)(*args)
    exact = getattr(reference, op)(*oracle_args(op, problem(op, dim, False, official, rounded=packed)))
    allowed = 1.5 * (naive.double() - exact).abs().max() + 2.0**-9 * exact.abs().max()
    assert (got.double() - exact).abs().max() <= allowed


@pytest.mark.parametrize("op", OPS)
def test_a_token_alone_has_the_same_bits(gpu: EmulatedGpu, op: str) -> None:
    args = list(problem(op, 80, True, True))
    (together,) = gpu.run(op, args)
    at = 6 if op == "csa_attention" else 5 if op == "hca_attention" else 3
    for b, i, t in ((0, 1, 1), (2, 0, 3)):
        alone = list(args)
        alone[0] = args[0][t : t + 1]
        alone[2] = args[2][b : b + 1]
        if op != "window_attention":
            alone[4] = args[4][b : b + 1]
        if op == "csa_attention":
            alone[5] = args[5][t : t + 1]
        alone[at], alone[at + 1] = int32(0, 1), int32(STARTS[b] + i)
        assert torch.equal(gpu.run(op, alone)[0], together[t : t + 1])


def test_every_barrier_of_a_long_list_is_missed(gpu: EmulatedGpu) -> None:
    args = problem("hca_attention", 80, False, False)
    gpu.run("hca_attention", args)
    barriers = gpu.barriers()
    assert len(barriers) == 4
    for barrier in barriers:
        with pytest.raises(RuntimeError, match="race: "):
            gpu.run("hca_attention", args, ignored_barrier=barrier)


def test_a_pick_behind_the_table_is_none(gpu: EmulatedGpu) -> None:
    args = list(problem("csa_attention", 80, False, False))
    (want,) = gpu.run("csa_attention", args)
    args[5] = args[5].clone()
    args[5][:, ::7] = 2**31 - 1
    assert torch.equal(gpu.run("csa_attention", args)[0], want)
