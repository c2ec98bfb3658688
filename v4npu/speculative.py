"""Speculative decoding with the MTP head: draft tokens of its layer, verified by the model in one pass.

Lossless: a draft token x drawn from q is kept with probability min(1, p(x) / q(x)), p being what the model itself
would draw from; the first one refused is replaced by a draw from max(p - q, 0). Greedy decoding is the case where p and
q are all on one token each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from v4npu._C import KEEP_TOKENS
from v4npu.generate import Sampling

if TYPE_CHECKING:
    from v4npu.cache import Cache
    from v4npu.model import Model


@dataclass
class Acceptance:
    """Draft tokens made and accepted, passes of the model."""

    drafted: int = 0
    accepted: int = 0
    passes: int = 0

    @property
    def rate(self) -> float:
        """Share of the draft tokens that were accepted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that a pass of the model yields: one of its own and the accepted draft tokens."""
        return 1 + self.accepted / self.passes if self.passes else 0.0


def speculate(
    model: Model,
    ids: list[int],
    count: int,
    sampling: Sampling,
    stop: set[int],
    draft_tokens: int,
    acceptance: Acceptance | None = None,
) -> Iterator[int]:
    """Ids that continue `ids`, as generate() describes.

    Raises:
        ValueError: no MTP layer, or draft_tokens out of range.
    """
    if type(draft_tokens) is not int or not 1 <= draft_tokens < KEEP_TOKENS:
        raise ValueError(f"draft_tokens must be an integer in 0..{KEEP_TOKENS - 1}, got {draft_tokens!r}")
    if not model.mtp:
        raise ValueError("draft_tokens: this checkpoint has no MTP layer")
    return _speculate(model, ids, count, sampling, stop, draft_tokens, acceptance or Acceptance())


@torch.inference_mode()
def _prefill(model: Model, ids: list[int], cache: Cache, window: int) -> tuple[Tensor, Tensor]:
    """The last logits, and the streams of the last `window` + 1 tokens: the draft layer sees no further.

    The tokens before them go first, for the streams of a long prompt would take more room than its cache.
    """
    if before := ids[: -window - 1]:
        model(torch.tensor([before], device="cpu"), cache=cache, last_only=True)
    streams = model.streams(torch.tensor([ids[len(before) :]], device="cpu"), cache=cache)
    return model.logits(streams[:, -1:])[0, -1], streams


def _speculate(
    model: Model,
    ids: list[int],
    count: int,
    sampling: Sampling,
    stop: set[int],
    draft_tokens: int,
    report: Acceptance,
) -> Iterator[int]:
    if count == 0:
        return
    limit = len(ids) + count + draft_tokens
    cache = model.new_cache(1, limit)
    logits, streams = _prefill(model, ids, cache, model.config.sliding_window)
    begin = len(ids) - streams.shape[1]  # position of the first of `streams`
    draft = model.new_cache(1, limit, draft=True)
    draft.sequences[0].skip(begin)
    known = ids[begin + 1 :]  # what follows each of `streams`, but for the last
    token = sampling.next(logits)
    while True:
        if token in stop:
            return
        yield token
        count -= 1
        if count == 0:
            return
        guesses = _Guesses(model, draft, sampling, min(draft_tokens, count))
        guesses.make(streams, [*known, token])
        with torch.inference_mode():
            streams = model.streams(torch.tensor([[token, *guesses.ids]], device="cpu"), cache=cache)
            rows = model.logits(streams)[0]
        kept, token = guesses.verify(rows)
        report.drafted += len(guesses.ids)
        report.accepted += kept
        report.passes += 1
        surplus = len(guesses.ids) - kept
        cache.rollback(cache.num_tokens - surplus)
        streams, known = streams[:, : kept + 1], guesses.ids[:kept]
        for guess in known:
            if guess in stop:
                return
            yield guess
            count -= 1
            if count == 0:
                return


class _Guesses:
    """What the draft layer expects after the newest token."""

    def __init__(self, model: Model, cache: Cache, sampling: Sampling, count: int) -> None:
        self.model, self.cache, self.sampling, self.count = model, cache, sampling, count
        self.ids: list[int] = []
        self.probs: list[Tensor] = []

    @torch.inference_mode()
    def make(self, streams: Tensor, next_ids: list[int]) -> None:
        """Draws `count` guesses.

        Args:
            streams: of the tokens [1, n, m, d] that the draft layer has not seen yet, the last of them the newest
                whose successor is known.
            next_ids: the n tokens that follow them.
        """
        seen = self.cache.num_tokens + len(next_ids)
        for _ in range(self.count):
            logits, out = self.model.draft(streams, torch.tensor([next_ids], device="cpu"), cache=self.cache)
            self.probs.append(self.sampling.probs(logits[0, -1]))
            self.ids.append(token := self.sampling.draw(self.probs[-1]))
            streams, next_ids = out[:, -1:], [token]
        self.cache.rollback(seen)  # rows of guesses are not rows of tokens

    def verify(self, logits: Tensor) -> tuple[int, int]:
        """How many guesses hold, and the token after them.

        Args:
            logits: the model's, float32 [count + 1, vocab_size]: after the newest token, then after each guess.
        """
        for i, (guess, q) in enumerate(zip(self.ids, self.probs, strict=True)):
            p = self.sampling.probs(logits[i])
            if torch.rand((), generator=self.sampling.generator, device=p.device) * q[guess] < p[guess]:
                continue
            rest = (p - q).clamp_min(0)
            return i, self.sampling.draw(rest if rest.any() else p)  # p and q alike but for rounding: p will do
        return len(self.ids), self.sampling.next(logits[-1])
