"""What one call of the model is about: its tokens, where they stand, and who watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Trace = Callable[[str, Tensor], None]


@dataclass
class Step:
    """`batch` sequences of `length` new tokens each, all at position `start`, packed sequence by sequence."""

    input_ids: Tensor  # int64 [T]
    batch: int
    length: int
    start: int
    trace: Trace | None = None  # receives named intermediates
    scope: str = ""  # the layer being run, prefixed to those names
    positions: Tensor = field(init=False)  # int64 [T]
    cu_seqlens_q: Tensor = field(init=False)  # int32 [batch + 1]
    start_pos: Tensor = field(init=False)  # int32 [batch]

    def __post_init__(self) -> None:
        device = self.input_ids.device
        self.positions = torch.arange(self.start, self.start + self.length, device=device).repeat(self.batch)
        self.cu_seqlens_q = torch.arange(0, self.batch * self.length + 1, self.length, dtype=torch.int32, device=device)
        self.start_pos = torch.full((self.batch,), self.start, dtype=torch.int32, device=device)

    @property
    def end(self) -> int:
        """Tokens each sequence has after this call."""
        return self.start + self.length

    def entries(self, ratio: int) -> int:
        """Compressed entries that each sequence completes in this call."""
        return self.end // ratio - self.start // ratio

    def window_slots(self, window: int) -> Tensor:
        """Row of each token in a cache of `batch` rings of `window` rows; -1 for tokens a later one displaces."""
        sequence = torch.arange(self.batch, device=self.positions.device).repeat_interleave(self.length)
        slots = sequence * window + self.positions % window
        return torch.where(self.positions >= self.end - window, slots, -1)

    def note(self, name: str, value: Tensor) -> None:
        """Shows an intermediate to the trace, if there is one."""
        if self.trace is not None:
            self.trace(f"{self.scope}.{name}", value)
