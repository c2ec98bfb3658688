"""Generation and perplexity: sampling, streaming, stopping, and who is told what was wrong."""

import math
from types import SimpleNamespace

import pytest
import torch

import v4npu
from v4npu.generate import Sampling, generate
from v4npu.perplexity import perplexity

VOCAB = 16


class Letters:
    """A tokenizer of the letters a..p."""

    bos_id = None

    def encode(self, text):
        return [ord(c) - ord("a") for c in text]

    def stream(self):
        return SimpleNamespace(push=lambda i: chr(ord("a") + i), finish=lambda: "")


class Counter:
    """A model whose next token is the last one plus one; records what it was called with."""

    def __init__(self, scores=None):
        self.config = SimpleNamespace(vocab_size=VOCAB, max_position_embeddings=100, eos_token_ids=(1,))
        self.tokenizer, self.device = Letters(), torch.device("cpu")
        self.scores, self.calls, self.caches = scores, [], []

    def new_cache(self, batch, max_tokens):
        self.caches.append((batch, max_tokens))
        return SimpleNamespace(num_tokens=0)

    def __call__(self, input_ids, cache=None, last_only=False):
        assert torch.is_inference_mode_enabled() and input_ids.dtype == torch.int64
        if cache is None:  # perplexity: every next token has probability 1/2
            logits = torch.zeros(*input_ids.shape, VOCAB)
            after = torch.cat([input_ids[:, 1:], (input_ids[:, -1:] + 1) % VOCAB], 1)
            return logits.scatter(2, after.unsqueeze(2), math.log(VOCAB - 1))
        assert last_only
        self.calls.append(input_ids.tolist())
        if self.scores is not None:
            return torch.tensor(self.scores, dtype=torch.float32).view(1, 1, -1)
        after = (input_ids[0, -1] + 1) % VOCAB
        return torch.nn.functional.one_hot(after, VOCAB).float().view(1, 1, -1)


def test_prefill_then_one_token_at_a_time():
    model = Counter()
    assert list(generate(model, [3, 4, 5], max_new_tokens=4)) == [6, 7, 8, 9]
    assert model.calls == [[[3, 4, 5]], [[6]], [[7]], [[8]]] and model.caches == [(1, 7)]
    assert list(generate(model, torch.tensor([[3, 4, 5]]), max_new_tokens=2)) == [6, 7]  # as the model takes ids


def test_text_in_text_out_and_ids_in_ids_out():
    assert "".join(generate(Counter(), "bcd", max_new_tokens=3)) == "efg"
    assert list(generate(Counter(), torch.tensor([1, 2]), max_new_tokens=2)) == [3, 4]


def test_bos_goes_before_text_only():
    model = Counter()
    model.tokenizer.bos_id = 9
    list(generate(model, "b", max_new_tokens=1))
    list(generate(model, [1], max_new_tokens=1))
    assert model.calls == [[[9, 1]], [[1]]]


def test_pieces_come_as_they_are_made():
    model = Counter()
    pieces = generate(model, [3], max_new_tokens=50)
    assert model.calls == [] and next(pieces) == 4 and len(model.calls) == 1
    assert next(pieces) == 5 and len(model.calls) == 2


def test_stops_at_eos():
    assert list(generate(Counter(), [14], max_new_tokens=9)) == [15, 0]
    assert list(generate(Counter(), [14], max_new_tokens=4, stop_at_eos=False)) == [15, 0, 1, 2]
    assert list(generate(Counter(), [14], max_new_tokens=0)) == []


def test_greedy_ties_go_to_the_smaller_id():
    assert list(generate(Counter([0, 1, 5, 5, 5] + [0] * 11), [0], max_new_tokens=2)) == [2, 2]
    assert list(generate(Counter([-3e38, 0, 3e38] + [0] * 13), [0], max_new_tokens=1)) == [2]


def test_sampling_follows_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    sampling = Sampling(torch.device("cpu"), 0.7, 1.0, 0)
    picks = torch.tensor([sampling.next(logits) for _ in range(4000)])
    share = torch.bincount(picks, minlength=4) / 4000
    assert torch.allclose(share, (logits / 0.7).softmax(0), atol=0.03)


def test_top_p_keeps_the_token_that_crosses_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, kept in ((0.01, {0}), (0.5, {0}), (0.51, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        sampling = Sampling(torch.device("cpu"), 1.0, top_p, 1)
        assert {sampling.next(logits) for _ in range(400)} == kept


def test_the_seed_decides_and_the_global_generator_does_not():
    def sample(seed):
        return list(
            generate(Counter([0.0] * VOCAB), [2], max_new_tokens=30, temperature=1.0, seed=seed, stop_at_eos=False)
        )

    first = sample(7)
    state = torch.get_rng_state()
    torch.rand(5)
    assert sample(7) == first != sample(8)
    assert sample(None) != sample(None)
    torch.set_rng_state(state)
    sample(7)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tiny_temperature_is_greedy():
    scores = [0.0, 0.1] + [-1.0] * 14
    assert set(generate(Counter(scores), [2], max_new_tokens=20, temperature=1e-9, stop_at_eos=False)) == {1}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite(bad, temperature):
    with pytest.raises(RuntimeError, match="logits are not finite"):
        list(generate(Counter([bad] + [0.0] * 15), [2], temperature=temperature))


@pytest.mark.parametrize(
    "prompt, options, culprit",
    [
        ("", {}, "prompt must not be empty"), ([], {}, "prompt must not be empty"),
        (torch.zeros(0, dtype=torch.long), {}, "prompt must not be empty"),
        (torch.zeros(2, 3, dtype=torch.long), {}, r"prompt .* \[2, 3\]"), ([1, VOCAB], {}, "prompt .* got 16"),
        ([-1], {}, "prompt .* got -1"), ([1.5], {}, "prompt .* got 1.5"), ([True], {}, "prompt .* got True"),
        ([1], {"max_new_tokens": -1}, "max_new_tokens"), ([1], {"max_new_tokens": 2.0}, "max_new_tokens"),
        ([1], {"temperature": -0.1}, "temperature"), ([1], {"temperature": math.nan}, "temperature"),
        ([1], {"temperature": math.inf}, "temperature"),
        ([1], {"temperature": 10**400}, "temperature"), ([1], {"top_p": 0.0}, "top_p"),
        ([1], {"top_p": 1.1}, "top_p"), ([1], {"top_p": math.nan}, "top_p"), ([1], {"seed": -1}, "seed"),
        ([1], {"seed": "x"}, "seed"), ([1], {"max_new_tokens": 100}, "need 101 positions, the model has 100"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_at_once(prompt, options, culprit):
    with pytest.raises(ValueError, match=culprit):
        generate(Counter(), prompt, **options)


@pytest.mark.parametrize(
    "prompt, options, culprit",
    [
        (None, {}, "prompt .* got NoneType"), (b"abc", {}, "prompt .* got bytes"), ({1: 2}, {}, "prompt .* got dict"),
        ([1], {"temperature": "0"}, "temperature"), ([1], {"top_p": None}, "top_p"),
    ],
)  # fmt: skip
def test_wrong_types_are_named_at_once(prompt, options, culprit):
    with pytest.raises(TypeError, match=culprit):
        generate(Counter(), prompt, **options)


def test_text_needs_a_tokenizer():
    model = Counter()
    model.tokenizer = None
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        generate(model, "b")


@pytest.mark.parametrize("length, context", [(2, 2), (3, 8), (9, 8), (40, 8), (41, 7), (40, 100)])
def test_perplexity_scores_every_token_once(length, context):
    text = "abcdefghijklmnop" * 3
    seen = []
    result = perplexity(Counter(), text[:length], context, lambda *at: seen.append(at))
    assert (result.tokens, result.bytes) == (length - 1, length) and seen[-1] == (length - 1, length - 1)
    assert result.nats_per_token == pytest.approx(math.log(2), rel=1e-5)
    assert result.perplexity == pytest.approx(2.0, rel=1e-5)
    assert result.bits_per_byte == pytest.approx((length - 1) / length, rel=1e-5)


def test_half_a_character_is_three_bytes():
    model, text = v4npu.load("nano"), "a whale \ud83d\ude00 or half of one \ud83d"
    result = perplexity(model, text)
    assert result == perplexity(model, "a whale \U0001f600 or half of one \ufffd") and result.bytes == len(text) + 4


@pytest.mark.parametrize(
    "text, context, culprit",
    [("", 8, "text"), ("a", 8, "text"), ("ab", 1, "context"), ("ab", 101, "context"), ("ab", "8", "context")],
)
def test_perplexity_wrong_arguments(text, context, culprit):
    with pytest.raises(ValueError, match=f"{culprit} must"):
        perplexity(Counter(), text, context)


def test_nano_streams_what_it_decodes():
    nano = v4npu.load("nano")
    ids = nano.tokenizer.encode("Call me")
    made = list(nano.generate(ids, max_new_tokens=12, temperature=0.8, seed=3))
    text = "".join(nano.generate("Call me", max_new_tokens=12, temperature=0.8, seed=3))
    assert text == nano.tokenizer.decode(made)
    with pytest.raises(ValueError, match=r"prompt .* got 1024"):
        nano.generate([1024])
