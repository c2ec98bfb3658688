"""State is a value: whatever a sequence goes through, its logits are those of a straight run, bit for bit.

A strict model computes the straight run once per text; the machine then prefills in chunks of any size, decodes, forks,
steps back, saves and loads, shares prefixes, batches sequences and preempts them, and compares every logit. In float64
the reference serves; there a model that is not strict is held to rounding error, too small to flip a pick.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from v4npu.cache import PrefixCache, Sequence
from v4npu.testing import models
from v4npu.testing.compare import max_error

WIDE = replace(models.TINY, sliding_window=40)  # more than two blocks
LENGTH = {"tiny": 150, "official": 300, "wide": 230}
CONFIGS = {"tiny": models.TINY, "official": models.OFFICIAL, "wide": WIDE}
TEXTS = 2
# A text of its own from one of these positions on: steps back are followed by other tokens than before.
BRANCHES = {"tiny": (5, 33), "official": (3, 140), "wide": (60, 190)}


MODES = {  # numerics, dtype, strict
    "exact": ("exact", "float32", True),
    "official": ("official", "bfloat16", True),
    "reference": ("exact", "float64", True),
    "loose": ("exact", "float64", False),
}
LOOSE = 1e-9  # of the largest logit


@cache
def model_of(name: str, mode: str):
    numerics, dtype, strict = MODES[mode]
    return models.model(CONFIGS[name], numerics=numerics, dtype=dtype, strict=strict)


@cache
def text(name: str, first: int, branch: int, second: int) -> tuple[int, ...]:
    """Text `first` up to position `branch`, text `second` from there."""
    generator = [torch.Generator().manual_seed(i) for i in (first, second)]
    ids = [torch.randint(0, 48, (LENGTH[name],), generator=g).tolist() for g in generator]
    return tuple(ids[0][:branch] + ids[1][branch:])


@cache
def straight(name: str, mode: str, *which: int) -> torch.Tensor:
    """Logits [length, vocab] of one prefill of the whole text."""
    with torch.inference_mode():
        return model_of(name, mode)(torch.tensor([text(name, *which)]))[0]


def agree(mode: str, logits: torch.Tensor, expected: torch.Tensor) -> None:
    if mode == "loose":
        assert max_error(logits, expected) < LOOSE
    else:
        assert torch.equal(logits, expected)


class Live:
    """A sequence and the text it says."""

    def __init__(self, sequence: Sequence, which: tuple[int, int, int]) -> None:
        self.sequence, self.which = sequence, which


class Machine(RuleBasedStateMachine):
    name, mode, operations = "tiny", "exact", 0
    live = Bundle("live")

    @initialize(policy=st.sampled_from(["live", "full", "periodic", "zero"]))
    def begin(self, policy: str) -> None:
        self.model = model_of(self.name, self.mode)
        block = 128 if self.name == "official" else 16
        period = 2 * block if policy == "periodic" else None
        self.store = self.model.new_store(block_tokens=block, window_policy=policy, period=period, poison=True)
        self.prefixes = PrefixCache(self.store, 1 << 20)
        self.all: list[Live] = []

    def add(self, sequence: Sequence, which: tuple[int, int, int]) -> Live:
        self.all.append(Live(sequence, which))
        return self.all[-1]

    def feed(self, lives: list[Live], counts: list[int]) -> None:
        """Computes the next tokens of some sequences in one call and compares every logit."""
        chosen = []
        for live, n in zip(lives, counts, strict=True):
            at = len(live.sequence)
            ids = text(self.name, *live.which)[at : at + n]
            if ids and all(live is not other for other, _, _ in chosen):
                chosen.append((live, at, list(ids)))
        if not chosen:
            return
        with torch.inference_mode():
            streams = self.model.extend([live.sequence for live, _, _ in chosen], [ids for _, _, ids in chosen])
            logits = self.model.logits(streams.unsqueeze(1))[:, 0]
        expected = [straight(self.name, self.mode, *live.which)[at : at + len(i)] for live, at, i in chosen]
        agree(self.mode, logits, torch.cat(expected))

    @rule(target=live, first=st.integers(0, TEXTS - 1), share=st.floats(0.2, 1))
    def new(self, first: int, share: float) -> Live:
        live = self.add(Sequence(self.store), (first, 0, first))
        self.feed([live], [round(share * LENGTH[self.name])])
        return live

    @rule(live=live, share=st.floats(0, 0.4))
    def prefill(self, live: Live, share: float) -> None:
        self.feed([live], [1 + round(share * LENGTH[self.name])])

    @rule(live=live, count=st.integers(1, 5))
    def decode(self, live: Live, count: int) -> None:
        for _ in range(count):
            self.feed([live], [1])

    @rule(lives=st.lists(live, min_size=2, max_size=4), counts=st.lists(st.integers(1, 9), min_size=4, max_size=4))
    def batch(self, lives: list[Live], counts: list[int]) -> None:
        self.feed(lives, counts[: len(lives)])

    @rule(target=live, live=live, branch=st.integers(0, 1), count=st.integers(1, 9))
    def fork(self, live: Live, branch: int, count: int) -> Live:
        """Both go on, the fork perhaps with other tokens."""
        other = self.add(live.sequence.fork(), live.which)
        self.say_something_else(other, branch, 1 - live.which[0])
        self.feed([other], [count])
        self.feed([live], [count])
        return other

    @rule(live=live, share=st.floats(0.3, 1), count=st.integers(1, 9))
    def rollback(self, live: Live, share: float, count: int) -> None:
        live.sequence.rollback(round(share * len(live.sequence)))
        self.feed([live], [count])

    @rule(live=live, back=st.integers(1, 24), count=st.integers(1, 3))
    def step_back(self, live: Live, back: int, count: int) -> None:
        live.sequence.rollback(max(0, len(live.sequence) - back))
        self.feed([live], [count])

    @rule(live=live, branch=st.integers(0, 1), second=st.integers(0, TEXTS - 1))
    def say_something_else(self, live: Live, branch: int, second: int) -> None:
        at = BRANCHES[self.name][branch]
        if len(live.sequence) >= at and live.which[0] == live.which[2]:
            live.sequence.rollback(at)
            live.which = (live.which[0], at, second)
            self.feed([live], [3])

    @rule(live=live)
    def preempt(self, live: Live) -> None:
        live.sequence.release()
        self.feed([live], [1])

    @rule(live=live)
    def publish(self, live: Live) -> None:
        self.prefixes.publish(live.sequence)

    @rule(target=live, first=st.integers(0, TEXTS - 1), share=st.floats(0.1, 1))
    def begin_with_a_prefix(self, first: int, share: float) -> Live:
        ids = text(self.name, first, 0, first)
        live = self.add(self.prefixes.begin(ids[: round(share * len(ids))]), (first, 0, first))
        self.feed([live], [2])
        return live

    @rule(share=st.floats(0, 1))
    def evict(self, share: float) -> None:
        self.prefixes.evict(int(share * self.prefixes.nbytes))

    @rule(live=live)
    def save_and_load(self, live: Live) -> None:
        cache = self.model.new_cache(1, LENGTH[self.name], store=self.store)
        cache.sequences[:] = [live.sequence]
        with tempfile.TemporaryDirectory() as folder:
            cache.save(Path(folder) / "cache")
            loaded = self.model.load_cache(Path(folder) / "cache", self.store)
        live.sequence = loaded.sequences.pop()
        cache.sequences[0].release()
        cache.sequences.clear()
        self.feed([live], [2])

    @invariant()
    def counts(self) -> None:
        type(self).operations += 1

    def teardown(self) -> None:
        for live in getattr(self, "all", ()):
            live.sequence.release()
        if self.all:
            self.prefixes.clear()
            assert self.store.nbytes == 0  # no block is leaked


def run(name: str, mode: str, examples: int, steps: int) -> int:
    machine = type("Machine", (Machine,), {"name": name, "mode": mode, "operations": 0})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.generate],
        ),
    )  # fmt: skip
    return machine.operations


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CONFIGS)
def test_any_history_says_what_a_straight_run_says(name: str, mode: str) -> None:
    examples = (1 if name == "wide" else 3) if mode == "reference" else 6  # each takes ten times as long as by kernels
    assert run(name, mode, examples, steps=40) >= 10 * examples


@pytest.mark.slow
@pytest.mark.skipif("V4NPU_LONG" not in os.environ, reason="10,000 operations; set V4NPU_LONG=1")
def test_ten_thousand_operations() -> None:
    done = sum(run(name, n, examples=40, steps=50) for name in CONFIGS for n in MODES)
    print(f"{done} operations")
    assert done >= 10_000


@torch.inference_mode()
@pytest.mark.parametrize("name", CONFIGS)
def test_every_residue(name: str) -> None:
    """Calls that end, and steps back that land, at every residue modulo 4 and modulo the HCA ratio."""
    model, ids = model_of(name, "exact"), torch.tensor([text(name, 0, 0, 0)])
    expected, ratio = straight(name, "exact", 0, 0, 0), CONFIGS[name].compress_ratios[1 if name == "official" else 2]
    draw = random.Random(0)
    cache = model.new_cache(1, LENGTH[name])
    model(ids[:, : ratio + 4], cache=cache)
    for end in range(ratio + 5, 2 * ratio + 6):
        fork = cache.fork()
        fork.rollback(draw.randint(0, end - 1) if end % 16 == 0 else end - draw.randint(1, 8))
        at = fork.num_tokens
        assert torch.equal(model(ids[:, at : end + 1], cache=fork)[0], expected[at : end + 1])
        assert torch.equal(model(ids[:, end - 1 : end], cache=cache)[0], expected[end - 1 : end])
