"""The cache of a batch of sequences, as Model.new_cache makes it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v4npu.cache.sequence import Sequence
from v4npu.cache.store import Store

if TYPE_CHECKING:
    from v4npu.model import Model


class Cache:
    """What `batch` sequences have left behind; they may be of different lengths.

    Attributes:
        model: a weak reference; `cache.model()` is the model, or None when that is gone.
        batch: how many sequences.
        max_tokens: tokens each may hold.
    """

    def __init__(self, model: Model, store: Store, sequences: list[Sequence], max_tokens: int, draft: bool) -> None:
        if not isinstance(store, Store):
            raise TypeError(f"store must be one of new_store, got {type(store).__name__}")
        if not store.fits(model, draft):
            raise ValueError("store: it was made for another model, or for the other of forward() and draft()")
        self.model = weakref.ref(model)
        self.store, self.sequences, self.max_tokens, self.draft = store, sequences, max_tokens, draft
        store.caches += 1

    @property
    def batch(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each sequence."""
        return [len(s) for s in self.sequences]

    @property
    def num_tokens(self) -> int:
        """Tokens held by the longest sequence; all are alike unless padded batches made them differ."""
        return max(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes allocated now, by this cache and those that share its pages."""
        return self.store.nbytes

    def fork(self) -> Cache:
        """The same cache again; both share their pages and copy the one they write to.

        They may be used by several threads, one each, and take turns.
        """
        model = self.model()
        if model is None:
            raise ValueError("fork: the model of this cache is gone")
        with self.store.lock:
            return Cache(model, self.store, [s.fork() for s in self.sequences], self.max_tokens, self.draft)

    def __copy__(self) -> Cache:
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        """A fork; of the model's copy where that was copied before it."""
        copy = self.fork()
        if (model := memo.get(id(self.model()))) is not None:
            copy.model = weakref.ref(model)
        return copy

    def rollback(self, num_tokens: int) -> None:
        """Forgets everything after `num_tokens` tokens of every sequence.

        Free for the last few tokens. Further back, the next call first recomputes what the pages no longer say: less
        than a block where the window rows before it are kept, else at most layers * (window - 1) tokens and a block.

        Raises:
            ValueError: num_tokens is negative or more than a sequence holds; nothing is changed.
        """
        short = min(self.lengths)
        if type(num_tokens) is not int or not 0 <= num_tokens <= short:
            raise ValueError(f"rollback: num_tokens must be an integer in 0..{short}, got {num_tokens!r}")
        if self.draft and any(s.replay(num_tokens) for s in self.sequences):
            raise ValueError(f"rollback: a draft cache of {self.num_tokens} tokens cannot go back to {num_tokens}")
        with self.store.lock:
            for s in self.sequences:
                s.rollback(num_tokens)

    def save(self, path: str | Path) -> None:
        """Writes the cache as one checksummed safetensors file, whole or not at all; `model.load_cache` reads it."""
        from v4npu.cache.files import save

        model = self.model()
        if model is None:
            raise ValueError("save: the model of this cache is gone")
        save(path, self, model)

    def admit(self, model: Model, lengths: list[int], draft: bool = False) -> None:
        """Raises ValueError unless `lengths` more tokens, one number per sequence, of this model fit."""
        if self.model() is not model:
            raise ValueError("cache: it belongs to another model")
        if self.draft != draft:
            raise ValueError("cache: draft() wants one made with new_cache(draft=True), and forward() one without")
        if len(lengths) != self.batch:
            name = "next_ids" if draft else "input_ids"
            raise ValueError(f"{name} must have the cache's batch of {self.batch}, got {len(lengths)}")
        for s, length in zip(self.sequences, lengths, strict=True):
            if draft and s.computed < len(s):
                raise ValueError(
                    f"cache: draft() cannot compute positions {s.computed}..{len(s) - 1} again, whose streams are gone:"
                    " this cache was rolled back too far, restored or left by an error"
                )
            if len(s) + length > self.max_tokens:
                raise ValueError(
                    f"max_tokens of the cache is {self.max_tokens}: {len(s)} are held, {length} more do not fit"
                )

    def __del__(self) -> None:  # without the lock, for it runs anywhere: letting go of a block is safe at any time
        if "sequences" in self.__dict__:
            for s in self.sequences:
                s.release()
            self.store.leave()
