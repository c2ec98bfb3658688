"""Speculative decoding: the same text, the same distribution, and guesses that hold."""

from __future__ import annotations

import pytest
import torch

import v4npu
from v4npu.generate import Sampling
from v4npu.model import run
from v4npu.speculative import Acceptance, _Guesses, _prefill
from v4npu.testing import models

PROMPT = "Call me Ishmael."


@pytest.fixture(scope="module")
def tiny():
    return models.model(dtype="float32", numerics="exact", strict=True)


def test_greedy_text_of_nano_is_the_same_and_guesses_hold() -> None:
    nano = v4npu.load("nano", dtype="float32", numerics="exact")
    plain = "".join(nano.generate(PROMPT, max_new_tokens=60))
    for draft_tokens in (1, 3):
        report = Acceptance()
        text = "".join(nano.generate(PROMPT, max_new_tokens=60, draft_tokens=draft_tokens, acceptance=report))
        assert text == plain
        assert report.passes < 50 and report.drafted >= report.accepted
        assert report.rate > (0.5 if draft_tokens == 1 else 0.25)
        assert report.tokens_per_pass == 1 + report.accepted / report.passes


@pytest.mark.parametrize("draft_tokens", [1, 2, 7])
@pytest.mark.parametrize("length", [1, 7, 9, 30])
def test_greedy_ids_of_a_strict_model(tiny, draft_tokens: int, length: int) -> None:
    prompt = torch.randint(0, 48, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    plain = list(tiny.generate(prompt, max_new_tokens=20, stop_at_eos=False))
    assert list(tiny.generate(prompt, max_new_tokens=20, stop_at_eos=False, draft_tokens=draft_tokens)) == plain
    stops = list(tiny.generate(prompt, max_new_tokens=20))
    assert list(tiny.generate(prompt, max_new_tokens=20, draft_tokens=draft_tokens)) == stops


@torch.no_grad()
def test_drafts_of_a_strict_model_do_not_depend_on_batch_and_chunks() -> None:
    """float64 is the reference's, whose sums run in an order that depends on the shape: one token at a time, then."""
    model = models.model(dtype="float64", numerics="exact", strict=True)
    assert model.one_by_one
    ids = torch.randint(0, 48, (3, 18), generator=torch.Generator().manual_seed(0))
    streams, following = model.streams(ids)[:, :-1], ids[:, 1:]
    whole = model.draft(streams, following)
    for b in range(3):
        one, cache = slice(b, b + 1), model.new_cache(1, 17, draft=True)
        alone = model.draft(streams[one], following[one])
        cut = [
            model.draft(streams[one, at], following[one, at], cache=cache)
            for at in (slice(0, 9), slice(9, 10), slice(10, 17))
        ]
        for i in range(2):
            assert torch.equal(alone[i], whole[i][one]) and torch.equal(torch.cat([c[i] for c in cut], 1), alone[i])
    with torch.enable_grad(), pytest.raises(ValueError, match="strict: no gradient passes"):
        model.draft(streams.requires_grad_(), following)


@pytest.mark.parametrize("length", [1, 8, 9, 10, 11, 300])
def test_streams_of_a_prompt_are_kept_as_far_as_the_draft_layer_sees(tiny, length: int) -> None:
    window = tiny.config.sliding_window
    ids = torch.randint(0, 48, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    kept: list[int] = []
    whole, cache = tiny.streams(torch.tensor([ids])), tiny.new_cache(1, length)
    with pytest.MonkeyPatch.context() as patch:
        advance = run._advance
        patch.setattr(run, "_advance", lambda *args: kept.append(len(out := advance(*args))) or out)
        logits, streams = _prefill(tiny, ids, cache, window)
    assert max(kept) == min(length, window + 1) and streams.untyped_storage().nbytes() == streams.nbytes
    assert cache.num_tokens == length and torch.equal(streams, whole[:, -window - 1 :])
    assert torch.equal(logits, tiny.logits(whole)[0, -1])


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_or_drawn_again_is_distributed_as_the_model_says(seed: int) -> None:
    """Chi-square of 20,000 verified guesses from a draft distribution that is wrong."""
    generator = torch.Generator().manual_seed(seed)
    logits, draft = torch.randn(2, 2, 6, generator=generator) * 1.5
    sampling = Sampling(torch.device("cpu"), 1.0, 0.9 if seed == 2 else 1.0, seed)
    p, q = sampling.probs(logits[0]), sampling.probs(draft[0])
    counts, rounds = torch.zeros(6), 20_000
    for _ in range(rounds):
        guesses = _Guesses(None, None, sampling, 1)
        guesses.ids, guesses.probs = [sampling.draw(q)], [q]
        kept, token = guesses.verify(logits)
        counts[guesses.ids[0] if kept else token] += 1
    assert counts[p == 0].sum() == 0
    expected = p[p > 0] * rounds
    chi_square = ((counts[p > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 20.5  # 5 degrees of freedom: one in a thousand is above
    biased = (counts[p > 0] - q[p > 0] * rounds) ** 2 / (q[p > 0] * rounds).clamp_min(1)
    assert biased.sum() > 200  # the test can tell p from q


def test_sampled_tokens_of_the_whole_loop(tiny) -> None:
    """The second token after a fixed first one, over many seeds, with and without guesses."""
    prompt = [3, 5, 7, 11]
    with torch.inference_mode():
        logits = tiny(torch.tensor([prompt]))[0, -1]
        first = int(logits.argmax())
        p = (tiny(torch.tensor([[*prompt, first]]))[0, -1] / 0.7).softmax(-1)
    counts, tried = torch.zeros(48), 0
    for seed in range(200):
        ids = list(
            tiny.generate(prompt, max_new_tokens=2, temperature=0.7, seed=seed, draft_tokens=1, stop_at_eos=False)
        )
        if ids[0] == first:
            counts[ids[1]] += 1
            tried += 1
    top = p.topk(3).indices
    share, expected = counts[top] / tried, p[top]
    assert (share - expected).abs().max() < 4 * (expected.max() / tried).sqrt()


def test_refusals(tiny) -> None:
    for wrong in (-1, 8, 2.0, None):
        with pytest.raises(ValueError, match=r"draft_tokens must be an integer in 0\.\.7"):
            tiny.generate([1], draft_tokens=wrong)
    with pytest.raises(TypeError, match=r"acceptance must be a v4npu\.speculative\.Acceptance, got dict"):
        tiny.generate([1], acceptance={})
    without = models.model(models.TINY.without_mtp(), dtype="float32", numerics="exact")
    with pytest.raises(ValueError, match="no MTP layer"):
        without.generate([1], draft_tokens=1)
    cache = tiny.new_cache(1, 9)
    with pytest.raises(ValueError, match="draft=True"):
        tiny.draft(tiny.streams(torch.tensor([[1]])), torch.tensor([[2]]), cache=cache)
    with pytest.raises(ValueError, match="next_ids must have the cache's batch of 2, got 1"):
        tiny.draft(tiny.streams(torch.tensor([[1]])), torch.tensor([[2]]), cache=tiny.new_cache(2, 9, draft=True))
    for streams, got in ((None, "NoneType"), (torch.zeros(1, 2, 3, 5), r"\[1, 2, 3, 5\]")):
        with pytest.raises(ValueError, match=rf"streams must be \[1, 1, 4, 64\], got {got}"):
            tiny.draft(streams, torch.tensor([[2]]))
