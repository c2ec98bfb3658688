"""The cache of a batch of sequences: window rings, compressed entries, index keys and open compressor windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from v4npu.model.attention import Attention
    from v4npu.model.compressor import Compressor
    from v4npu.model.step import Step

FIRST_ENTRIES = 64  # rows allocated at first; doubled whenever they are full


def pages(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Entries [batch, n, D] as one block per sequence, and the block table [batch, 1] that says so."""
    return entries, torch.arange(entries.shape[0], dtype=torch.int32, device=entries.device).unsqueeze(1)


class EntryRows:
    """Rows [batch, n, D] that only ever grow at the end."""

    def __init__(self, batch: int, head_dim: int, limit: int, dtype: torch.dtype, device: torch.device) -> None:
        self.limit = limit
        self.rows = torch.zeros(batch, 0, head_dim, dtype=dtype, device=device)

    def append(self, new: Tensor, at: int) -> tuple[Tensor, Tensor]:
        """Writes `new` [batch, n, D] from row `at` on; returns all rows as pages."""
        need, have = at + new.shape[1], self.rows.shape[1]
        if need > have:
            size = min(self.limit, max(need, 2 * have, FIRST_ENTRIES))
            grown = self.rows.new_zeros(self.rows.shape[0], size, self.rows.shape[2])
            grown[:, :have] = self.rows
            self.rows = grown
        self.rows[:, at:need] = new
        return pages(self.rows)


def _fresh_state(compressor: Compressor | None, batch: int, device: torch.device) -> Tensor | None:
    if compressor is None:
        return None
    state = torch.zeros(batch, *compressor.state_shape(), dtype=compressor.ape.dtype, device=device)
    state[:, 1] = -torch.inf
    return state


class LayerCache:
    """One layer's share of the cache."""

    def __init__(self, attn: Attention, batch: int, limit: int, dtype: torch.dtype, device: torch.device) -> None:
        config = attn.config
        self.ratio, self.window = attn.ratio, attn.window
        self.window_rows = torch.zeros(batch * attn.window, config.head_dim, dtype=dtype, device=device)
        rows = limit // attn.ratio if attn.ratio else 0
        self.entries = EntryRows(batch, config.head_dim, rows, dtype, device) if attn.compressor else None
        self.keys = EntryRows(batch, config.index_head_dim, rows, dtype, device) if attn.indexer else None
        self.state = _fresh_state(attn.compressor, batch, device)
        self.index_state = _fresh_state(attn.indexer.compressor if attn.indexer else None, batch, device)

    def window_before(self, step: Step) -> Tensor | None:
        """A copy of the ring for a chunk that continues: its first queries see rows that its last tokens displace."""
        return self.window_rows.clone() if step.start and step.length > 1 else None

    def window_of(self, new: Tensor, before: Tensor | None, step: Step) -> Tensor:
        """Rows [batch, ring, D] that hold everything the call's queries see; position p is row p % ring."""
        if step.start == 0:
            return new
        if before is None:
            return self.window_rows.unflatten(0, (step.batch, self.window))
        ring = self.window + step.length
        device = new.device
        rows = new.new_zeros(step.batch, ring, new.shape[2])
        old = torch.arange(max(0, step.start - self.window + 1), step.start, device=device)
        rows[:, old % ring] = before.unflatten(0, (step.batch, self.window))[:, old % self.window]
        rows[:, torch.arange(step.start, step.end, device=device) % ring] = new
        return rows

    def append_entries(self, new: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Stores the entries completed in this call; all entries as pages."""
        assert self.entries is not None
        return self.entries.append(new, step.start // self.ratio)

    def append_keys(self, new: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Stores the index keys completed in this call; all keys as pages."""
        assert self.keys is not None
        return self.keys.append(new, step.start // self.ratio)

    def tensors(self) -> list[Tensor]:
        """Everything it holds."""
        rows = [store.rows for store in (self.entries, self.keys) if store is not None]
        return [self.window_rows, *rows, *(s for s in (self.state, self.index_state) if s is not None)]


class Cache:
    """What `batch` sequences of equal length have left behind; made by Model.new_cache."""

    def __init__(
        self,
        attentions: list[Attention],
        batch: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        for name, value in (("batch", batch), ("max_tokens", max_tokens)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        self.batch, self.max_tokens = batch, max_tokens
        self.num_tokens = 0
        self.layers = [LayerCache(attn, batch, max_tokens, dtype, device) for attn in attentions]

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return sum(t.nbytes for layer in self.layers for t in layer.tensors())

    def admit(self, batch: int, length: int) -> None:
        """Raises ValueError unless `length` more tokens of `batch` sequences fit."""
        if batch != self.batch:
            raise ValueError(f"input_ids must have the cache's batch of {self.batch}, got {batch}")
        if self.num_tokens + length > self.max_tokens:
            raise ValueError(
                f"max_tokens of the cache is {self.max_tokens}: {self.num_tokens} are held, {length} more do not fit"
            )
