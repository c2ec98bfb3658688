"""indexer_topk on the emulated GPU: exact picks of long and ragged lists, however their keys are split over blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.reference.gate import top_indices
from v4npu.testing.cases import Draw, int32
from v4npu.testing.cuda import EmulatedGpu
from v4npu.testing.paging import paged, rounded_keys

BF16 = torch.bfloat16
RATIO, HEADS = 4, 20
LENGTHS, STARTS = (9, 0, 1, 34), (30, 5, 3, 0)  # of four sequences, one without tokens in this call


def picks(gpu: EmulatedGpu, args: tuple) -> tuple[Tensor, list[str]]:
    """The picks, and the kernels that made them."""
    (out,) = gpu.run("indexer_topk", args)
    return out, [launch[0] for launch in gpu.launches()]


def best_of(scores: Tensor, topk: int) -> Tensor:
    """What the contract says of these scores."""
    order = top_indices(scores, topk)
    order = order.masked_fill(scores.gather(1, order) == -torch.inf, -1)
    return torch.nn.functional.pad(order, (0, topk - order.shape[1]), value=-1).int()


@pytest.mark.parametrize("topk,kind,official", [
    (1, "plain", False), (40, "plain", True), (5, "fp4_key", False), (1, "fp4_key", True), (40, "fp8_key", False),
    (5, "fp8_key", True),
])  # fmt: skip
def test_picks_of_ragged_sequences_are_the_best_scores(gpu: EmulatedGpu, kind: str, official: bool, topk: int) -> None:
    draw, tokens = Draw(BF16, topk), sum(LENGTHS)
    keys = [draw.normal((n + s) // RATIO, 128) for n, s in zip(LENGTHS, STARTS, strict=True)]
    cached = paged([rounded_keys(k, kind) for k in keys], 2, kind)
    where = (int32(0, *torch.tensor(LENGTHS).cumsum(0).tolist()), int32(*STARTS), RATIO)
    args = (draw.normal(tokens, HEADS, 128), draw.normal(tokens, HEADS), *cached, *where)
    (scores,) = gpu.run("indexer_scores", (*args, official))
    got, kernels = picks(gpu, (*args, topk, official))
    assert kernels[1:] == ["indexer_topk_select"]
    assert torch.equal(got, best_of(scores, topk))
    for t in (0, 8, 9, 40):  # a token alone
        b = next(i for i, end in enumerate(where[0].tolist()[1:]) if t < end)
        place = (int32(0, 1), int32(STARTS[b] + t - int(where[0][b])), RATIO)
        alone, _ = picks(
            gpu, (args[0][t:][:1], args[1][t:][:1], cached[0], cached[1][b : b + 1], *place, topk, official)
        )
        assert torch.equal(alone, got[t : t + 1])


def listed(values: Tensor, tokens: int, topk: int) -> tuple:
    """Arguments whose scores are `values`, of the keys, for each of `tokens` tokens; all see every key."""
    count = len(values)
    keys = torch.zeros(1, -(-count // 64) * 64, 16, dtype=BF16)
    keys[0, :count, :] = values.to(BF16).unsqueeze(1)
    q = torch.zeros(tokens, 1, 16, dtype=BF16)
    q[:, :, 3] = 1
    table = torch.arange(keys.shape[1] // 64).int()[None]
    where = (int32(0, tokens), int32(count * tokens - 1), tokens)  # ratio: the last sees no more than the first
    return q, torch.ones(tokens, 1, dtype=BF16), keys.view(-1, 64, 16), table, *where, topk, False


ORDERS = {
    "rising": lambda n: torch.arange(n).remainder(251) + torch.arange(n) // 251 * 256,  # a list that never rests
    "falling": lambda n: (n - torch.arange(n)) // 17,
    "equal": lambda n: torch.ones(n),
    "seven": lambda n: torch.arange(n).remainder(7),
    "random": lambda n: torch.randn(n, generator=torch.Generator().manual_seed(1)).abs(),
}


@pytest.mark.parametrize("topk", [512, 2048])
@pytest.mark.parametrize("order", ORDERS)
def test_long_lists_split_and_whole(gpu: EmulatedGpu, order: str, topk: int) -> None:
    values = ORDERS[order](9_000).float().to(BF16).float()
    want = best_of(values[None], topk)
    split, kernels = picks(gpu, listed(values, 1, topk))
    assert kernels == ["indexer_topk_plain", "indexer_topk_merge"] and gpu.launches()[0][1:4] == ["1", "4", "1"]
    assert torch.equal(split, want)


@pytest.mark.parametrize("kind,dim", [("fp4_key", 128), ("fp8_key", 128), ("fp4_key", 160), ("fp8_key", 256)])
def test_packed_keys_come_while_others_are_scored(gpu: EmulatedGpu, kind: str, dim: int) -> None:
    draw = Draw(BF16, dim)
    cached = paged([rounded_keys(draw.normal(n, dim), kind) for n in (1500, 70)], 64, kind)
    args = (draw.normal(2, HEADS, dim), draw.normal(2, HEADS), *cached, int32(0, 1, 2), int32(5999, 279), RATIO)
    (scores,) = gpu.run("indexer_scores", (*args, False))
    got, kernels = picks(gpu, (*args, 300, False))
    assert kernels == [f"indexer_topk_{kind[:3]}"] and torch.equal(got, best_of(scores, 300))
    waits = [place for place in gpu.barriers() if place.startswith(("indexer.cuh", "staging.cuh"))]
    assert len(waits) == 2  # for copies, and of the warp
    for place in waits if dim == 128 else ():
        with pytest.raises(RuntimeError, match="race: "):
            gpu.run("indexer_topk", (*args, 300, False), ignored_barrier=place)


@pytest.mark.parametrize("order,topk", [("rising", 700), ("falling", 1), ("equal", 512), ("random", 2048)])
def test_lists_of_a_cluster(gpu: EmulatedGpu, order: str, topk: int) -> None:
    values = ORDERS[order](16_400).float().to(BF16).float()
    args = listed(values, 1, topk)
    got, kernels = picks(gpu, args)
    assert kernels == ["indexer_topk_plain_cluster"] and gpu.launches()[0][1:4] == ["1", "8", "1"]
    assert torch.equal(got, best_of(values[None], topk))
    if order != "rising":
        return
    args[5].fill_(299)  # two parts are of entries, six of none
    got, _ = picks(gpu, args)
    assert torch.equal(got, best_of(values[None, :300], topk))
    barriers = [barrier for barrier in gpu.barriers() if barrier.startswith("indexer_topk_kernel_sm90")]
    assert len(barriers) == 2  # between two lists, and before a block ends
    for barrier in barriers:
        with pytest.raises(RuntimeError, match="race: "):
            gpu.run("indexer_topk", args, ignored_barrier=barrier)


# Eight tokens of a prompt share keys: 16,896 at a time on an H100, so that two parts are merged, 256 tokens at a time.
@pytest.mark.parametrize("tokens,count,parts", [(8, 17_000, 2), (258, 90, 1)])
def test_tokens_of_a_prompt_have_the_picks_of_one_alone(gpu: EmulatedGpu, tokens: int, count: int, parts: int) -> None:
    values = ORDERS["seven"](count).float().to(BF16).float()
    many, kernels = picks(gpu, listed(values, tokens, 600))
    part = ["indexer_scores_tile_plain", "indexer_topk_select"]
    assert kernels == part * 2 + ["indexer_topk_merge"] * (parts - 1)
    assert torch.equal(many, best_of(values[None], 600).expand(tokens, -1))


def test_every_barrier_of_a_tile_is_missed(gpu: EmulatedGpu) -> None:
    args = listed(ORDERS["rising"](100).float(), 8, 50)
    gpu.run("indexer_scores", (*args[:7], False))
    (barrier,) = gpu.barriers()
    with pytest.raises(RuntimeError, match="race: "):
        gpu.run("indexer_scores", (*args[:7], False), ignored_barrier=barrier)


def test_262144_entries(gpu: EmulatedGpu) -> None:
    values = ORDERS["random"](262_144)
    got, kernels = picks(gpu, listed(values, 1, 1024))
    assert kernels == ["indexer_topk_plain_cluster", "indexer_topk_merge"]
    assert gpu.launches()[0][1:4] == ["1", "128", "1"]
    assert torch.equal(got, best_of(values.to(BF16).float()[None], 1024))


@pytest.mark.parametrize("count,topk", [(300, 5), (300, 400), (6_000, 700)])
def test_nan_is_the_largest_and_minus_infinity_no_pick(gpu: EmulatedGpu, count: int, topk: int) -> None:
    values = torch.arange(count).remainder(7).float()
    args = list(listed(values, 1, topk))
    keys = args[2].clone()
    for at, value in ((slice(0, count, 97), torch.nan), (slice(5, count, 100), torch.inf)):
        keys.view(-1, 16)[at] = value
    args[0], args[2] = args[0][:, :, 3:4].contiguous(), keys[:, :, 3:4].contiguous()
    got, _ = picks(gpu, tuple(args))
    assert torch.equal(got, reference.indexer_topk(*args))
    args[1] = -args[1] * torch.inf  # relu(0) * -inf is NaN, all else -inf
    got, _ = picks(gpu, tuple(args))
    assert torch.equal(got, reference.indexer_topk(*args))
    assert (got == -1).any() == (topk > int((values == 0).sum()) + 4)


def test_every_barrier_of_a_long_list_is_missed(gpu: EmulatedGpu) -> None:
    args = listed(ORDERS["rising"](12_300).float(), 1, 700)  # the merge shrinks twice, the second time from 700 on
    picks(gpu, args)
    barriers = gpu.barriers()
    assert len(barriers) == 6  # of add, two of shrink, of a part, two of sort
    for barrier in barriers:
        with pytest.raises(RuntimeError, match="race: "):
            gpu.run("indexer_topk", args, ignored_barrier=barrier)


def test_an_entry_that_is_not_visible_is_never_read(gpu: EmulatedGpu) -> None:
    args = list(listed(torch.arange(200).float(), 1, 9))
    args[5] = int32(100)
    args[3] = args[3].clone()
    args[3][0, 2:] = 1 << 30  # pages that do not exist
    got, _ = picks(gpu, tuple(args))
    assert got.tolist() == [list(range(100, 91, -1))]


def test_more_picks_than_the_list_holds_are_the_references(gpu: EmulatedGpu) -> None:
    got, kernels = picks(gpu, listed(torch.arange(50).float(), 1, 2049))
    assert not kernels and torch.equal(got, best_of(torch.arange(50.0)[None], 2049))


def test_keys_are_shared_by_prompts_and_their_scores_stay_bounded(invented: _C.DeviceCaps) -> None:
    for tokens, sequences, dim, tiled in (
        (32, 32, 128, False),
        (8, 1, 128, True),
        (4096, 3, 256, True),
        (8, 1, 288, False),
    ):
        plan = _C.plan_gpu_index(tokens, sequences, dim, invented)
        assert plan.tiled == tiled and plan.keys % 64 == 0 and plan.tokens % 32 == 0
        assert plan.tokens * plan.keys * 4 <= 20 << 20


def test_parts_fill_the_device_and_their_lists_stay_bounded(invented: _C.DeviceCaps) -> None:
    for tokens in (0, 1, 2, 31, 32, 128, 4096):
        for keys in (0, 1, 2047, 4096, 65_536, 262_144):
            plan = _C.plan_gpu_topk(tokens, keys, invented)
            parts = plan.parts
            assert not plan.clusters or (parts % 8 == 0 and invented.name in ("sm_90", "sm_100"))
            assert parts >= 1 and (parts == 1 or parts * tokens <= invented.num_cores)
            assert parts == 1 or keys // parts >= 2048
            if keys // 2048 >= invented.num_cores and 0 < tokens <= invented.num_cores:
                assert 2 * parts * tokens > invented.num_cores
