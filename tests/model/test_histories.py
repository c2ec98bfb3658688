"""What a sequence says after one named event, against a run of the whole text without any cache.

The state machine of test_state.py finds histories that nobody thought of; these are those that went wrong elsewhere.
"""

import pytest
import torch

from v4npu.cache import PrefixCache, Sequence
from v4npu.testing import models
from v4npu.testing.compare import max_error

BOUND = 1e-9
BLOCK = 16


@pytest.fixture(scope="module")
def model():
    return models.model(models.TINY, numerics="exact", dtype="float64")


def text(length, seed=0):
    return torch.randint(0, 48, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def feed(model, sequence, ids):
    """Logits [n, vocab] of the next tokens of a sequence."""
    return model.logits(model.extend([sequence], [ids]).unsqueeze(1))[:, 0]


@torch.inference_mode()
def whole(model, ids):
    return model(torch.tensor([ids]))[0]


def says(logits, model, ids):
    """The logits are those of the end of `ids`."""
    assert max_error(logits, whole(model, ids)[-len(logits) :]) < BOUND


@pytest.mark.parametrize("policy", ["live", "full", "zero"])
def test_a_prefix_hit_says_what_a_cold_run_says(model, policy):
    store = model.new_store(block_tokens=BLOCK, window_policy=policy, poison=True)
    prefixes, ids = PrefixCache(store, 1 << 20), text(60)
    first = Sequence(store)
    feed(model, first, ids[:50])
    prefixes.publish(first)
    first.release()
    second = prefixes.begin(ids)
    assert len(second) == 48
    says(feed(model, second, ids[48:]), model, ids)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 15, 16, 17])
def test_a_prompt_after_another_request(model, length):
    """The pages of a finished request are used again."""
    store = model.new_store(block_tokens=BLOCK)
    first = Sequence(store)
    feed(model, first, text(39, seed=1))
    first.release()
    second, ids = Sequence(store), text(length + 4)
    logits = [feed(model, second, ids[:length])] + [feed(model, second, [i]) for i in ids[length:]]
    says(torch.cat(logits), model, ids)


@pytest.mark.parametrize("at", [1, 17, 30, 35])
def test_other_tokens_after_a_step_back(model, at):
    s, ids, other = Sequence(model.new_store(block_tokens=BLOCK)), text(41), text(20, seed=1)
    feed(model, s, ids)
    s.rollback(at)
    says(feed(model, s, other), model, ids[:at] + other)


def test_other_tokens_after_a_step_back_are_another_prefix(model):
    store, ids, other = model.new_store(block_tokens=BLOCK), text(50), text(30, seed=1)
    prefixes, s = PrefixCache(store, 1 << 20), Sequence(store)
    feed(model, s, ids)
    prefixes.publish(s)
    s.rollback(20)
    feed(model, s, other)
    prefixes.publish(s)
    for said in (ids, ids[:20] + other):
        found = prefixes.begin(said)
        assert len(found) == 48
        says(feed(model, found, said[48:]), model, said)


def test_forks_go_their_own_ways(model):
    store, ids = model.new_store(block_tokens=BLOCK), text(38)
    s = Sequence(store)
    feed(model, s, ids)
    fork, ends = s.fork(), (text(12, seed=1), text(12, seed=2))
    for at in range(0, 12, 3):
        for branch, end in zip((s, fork), ends, strict=True):
            says(feed(model, branch, end[at : at + 3]), model, ids + end[: at + 3])


def test_a_preempted_sequence_goes_on_where_it_was(model):
    s, ids = Sequence(model.new_store(block_tokens=BLOCK, poison=True)), text(45)
    feed(model, s, ids[:38])
    s.release()
    says(feed(model, s, ids[38:]), model, ids)
