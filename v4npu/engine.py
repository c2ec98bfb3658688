"""Continuous batching: requests come and go between steps, and each step is one mixed pass of prefill and decode.

    engine = Engine(model, max_bytes=1 << 30, prefix_bytes=256 << 20)
    first = engine.add("Call me", max_new_tokens=32)
    for event in engine.run():
        print(event.request, event.token)

Requests are admitted by bytes, in order. Where a growing request finds no room, prefixes that nobody uses are dropped,
then the youngest request is put back in line; it is computed again later and goes on where it was. With a strict model
what a request says does not depend on the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from v4npu.cache import CacheFull, PrefixCache, Sequence
from v4npu.generate import Sampling, prompt_ids

if TYPE_CHECKING:
    from v4npu.model import Model


@dataclass(frozen=True)
class Event:
    """One new token of a request; `done` is "stop" (the model ended it), "length", or None while it goes on.

    The token that ends a request is in its last event, and no part of its text.
    """

    request: int
    token: int
    done: str | None


@dataclass
class _Request:
    id: int
    ids: list[int]  # prompt and what has been generated
    remaining: int
    sampling: Sampling
    stop: frozenset[int]
    salt: bytes
    sequence: Sequence | None = None

    @property
    def complete(self) -> bool:
        """Whether all its tokens are computed, so that the next one can be sampled."""
        return self.sequence is not None and len(self.sequence) == len(self.ids)

    def next_ids(self, limit: int) -> list[int]:
        """What the sequence is to compute next: the new token, or the next of the prompt."""
        done = len(self.sequence) if self.sequence is not None else 0
        return self.ids[done : done + limit]


class Engine:
    """Generates for many requests at once over one store of pages.

    Args:
        model: what generates.
        max_bytes: of all pages together.
        max_batch: requests that run at the same time.
        chunk_tokens: prompt tokens per step, of all requests together, so that decoding is not held up.
        prefix_bytes: how much of max_bytes finished prefixes may keep; 0 shares none.
        store_options: window_policy, period, block_tokens: see v4npu.cache.Store. Prefix hits are cheapest with
            window_policy "periodic" or "full".

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_bytes: int,
        max_batch: int = 32,
        chunk_tokens: int = 512,
        prefix_bytes: int = 0,
        **store_options: Any,
    ) -> None:
        for name, value, least in (
            ("max_bytes", max_bytes, 1),
            ("max_batch", max_batch, 1),
            ("chunk_tokens", chunk_tokens, 1),
            ("prefix_bytes", prefix_bytes, 0),
        ):
            if type(value) is not int or value < least:
                raise ValueError(f"Engine: {name} must be an integer of at least {least}, got {value!r}")
        self.model, self.max_batch, self.chunk_tokens = model, max_batch, chunk_tokens
        self.store = model.new_store(max_bytes=max_bytes, sequences=max_batch, **store_options)
        self.prefixes = PrefixCache(self.store, prefix_bytes)
        self.preemptions = 0
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._events: list[Event] = []  # sampled in a step that then raised; the next one delivers them
        self._next_id = 0

    def add(
        self,
        prompt: str | list[int] | Tensor,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = 0,
        stop_at_eos: bool = True,
        salt: bytes = b"",
    ) -> int:
        """Queues a request and returns its number.

        Args:
            salt: prefixes are shared among requests of the same salt only.

        Raises:
            ValueError: an empty prompt, an argument out of range, or more positions than the model has.
            CacheFull: it could not run even alone within max_bytes.
        """
        if not isinstance(salt, bytes):
            raise ValueError(f"salt must be bytes, got {type(salt).__name__}")
        sampling = Sampling(self.model.device, temperature, top_p, seed)
        ids = prompt_ids(self.model, prompt, max_new_tokens)
        if (need := self.store.bytes_for(len(ids) + max_new_tokens)) > self.store.budget.limit:
            raise CacheFull(f"Engine.add: the request needs {need:,} bytes, max_bytes is {self.store.budget.limit:,}")
        stop = frozenset(self.model.config.eos_token_ids) if stop_at_eos else frozenset()
        request = _Request(self._next_id, ids, max_new_tokens, sampling, stop, salt)
        self._next_id += 1
        if max_new_tokens:
            self._waiting.append(request)
        return request.id

    def remove(self, request: int) -> None:
        """Forgets a request and frees its pages; an unknown or finished one is ignored."""
        for r in [r for r in self._running if r.id == request]:
            self._finish(r)
        self._waiting = deque(r for r in self._waiting if r.id != request)

    def __len__(self) -> int:
        """Requests that run or wait."""
        return len(self._running) + len(self._waiting)

    def run(self) -> Iterator[Event]:
        """Steps until every request is done."""
        while len(self) or self._events:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One pass: admits what fits, computes, samples. Returns the new tokens.

        Raises:
            RuntimeError: a request's logits are not finite. The message names it; once it is removed the others go on.
            CacheFull: a request that runs alone found no room.

        Whatever is raised, no token is lost: what was sampled before is in the next step's events.
        """
        self._admit()
        batch, streams = self._compute()
        complete = [i for i, r in enumerate(batch) if r.complete]
        try:
            logits = (
                self.model.logits(streams[complete].unsqueeze(1))[:, 0] if complete else torch.empty(0, device="cpu")
            )
            for r in batch:
                if self.prefixes.max_bytes and r.sequence is not None:
                    self.prefixes.publish(r.sequence, r.salt)
            for i, row in zip(complete, logits, strict=True):
                self._events.append(self._sampled(batch[i], row))
        except BaseException:
            for r in batch:
                if r.sequence is not None and r.complete:  # and without a new token: its last one goes in again
                    r.sequence.rollback(len(r.ids) - 1)
            raise
        events, self._events = self._events, []
        return events

    def _compute(self) -> tuple[list[_Request], Tensor]:
        """Who computed, and the streams of each one's last token."""
        limit = self.chunk_tokens
        while True:
            batch, rows = self._batch(limit)
            sequences = [r.sequence for r in batch if r.sequence is not None]
            if not sequences:
                return [], torch.empty(0, device="cpu")
            try:
                return batch, self.model.extend(sequences, rows, last_only=True)
            except CacheFull:
                if self._make_room():
                    continue
                limit //= 2  # a chunk holds more window rows while it runs than a sequence does between calls
                if limit == 0 and not self._starts_over():
                    raise
                limit = limit or self.chunk_tokens

    def _sampled(self, r: _Request, logits: Tensor) -> Event:
        try:
            token = r.sampling.next(logits)
        except RuntimeError as error:
            raise RuntimeError(f"Engine: request {r.id}: {error}") from error
        r.remaining -= 1
        r.ids.append(token)
        done = "stop" if token in r.stop else "length" if r.remaining == 0 else None
        if done:
            self._finish(r)
        return Event(r.id, token, done)

    def _admit(self) -> None:
        """Starts waiting requests, in order, as long as what they hold already fits."""
        while self._waiting and len(self._running) < self.max_batch:
            r, store = self._waiting[0], self.store
            promised = sum(
                store.bytes_for(len(o.ids) + 1) - store.bytes_for(len(o.sequence or ())) for o in self._running
            )
            free = store.budget.limit - store.budget.used + self.prefixes.nbytes - promised
            if self._running and store.bytes_for(len(r.ids) + 1) > free:
                return
            r.sequence = self.prefixes.begin(r.ids, r.salt)
            self._running.append(self._waiting.popleft())

    def _batch(self, limit: int) -> tuple[list[_Request], list[list[int]]]:
        """Who computes in this step, and what: everyone that decodes, and at most `limit` tokens of prompts."""
        budget, batch, rows = limit, [], []
        for r in self._running:
            ids = r.next_ids(max(1, budget))
            if len(ids) > 1 or (r.sequence is not None and len(r.sequence) + 1 < len(r.ids)):
                if budget <= 0:
                    continue
                budget -= len(ids)
            batch.append(r)
            rows.append(ids)
        return batch, rows

    def _make_room(self) -> bool:
        """Drops shared prefixes, or else puts the youngest request back in line; False if there is but one."""
        if len(self.prefixes):
            self.prefixes.evict(self.prefixes.nbytes // 2 - 1)
            return True
        if len(self._running) == 1:
            return False
        r = self._running.pop()
        assert r.sequence is not None
        r.sequence.release()
        r.sequence = None
        self._waiting.appendleft(r)
        self.preemptions += 1
        return True

    def _starts_over(self) -> bool:
        """Forgets the pages of one that owes more than a chunk: what it shared is then computed in chunks too."""
        for r in self._running:
            if r.sequence is not None and r.sequence.computed < len(r.sequence):
                r.sequence.release()
                r.sequence = Sequence(self.store)
                return True
        return False

    def _finish(self, r: _Request) -> None:
        self._running.remove(r)
        if r.sequence is not None:
            r.sequence.release()
            r.sequence = None
