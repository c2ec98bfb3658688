"""What one pass through the layers is about: its tokens, where they stand, where their rows go, and who watches."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from v4npu.cache import Sequence

Trace = Callable[[str, Tensor], None]


@dataclass
class Step:
    """Sequences of `lengths` new tokens each, at positions `starts`, packed one after the other."""

    input_ids: Tensor  # int64 [T]
    lengths: list[int]
    starts: list[int]
    trace: Trace | None = None  # receives named intermediates
    scope: str = ""  # the layer being run, prefixed to those names
    positions: Tensor = field(init=False)  # int64 [T]
    cu_seqlens_q: Tensor = field(init=False)  # int32 [num_seqs + 1]
    start_pos: Tensor = field(init=False)  # int32 [num_seqs]
    tables: Tables | None = None  # where the rows lie; None: the call is all there is

    def __post_init__(self) -> None:
        device = self.input_ids.device
        ends = [0]
        for n in self.lengths:
            ends.append(ends[-1] + n)
        positions = [p for s, n in zip(self.starts, self.lengths, strict=True) for p in range(s, s + n)]
        self.positions = torch.tensor(positions, dtype=torch.int64, device=device)
        self.cu_seqlens_q = torch.tensor(ends, dtype=torch.int32, device=device)
        self.start_pos = torch.tensor(self.starts, dtype=torch.int32, device=device)

    def own(self, ratios: Iterable[int], columns: int) -> Step:
        """The same step over tensors that nothing else refers to; see Tables.own."""
        step = copy.copy(self)
        step.input_ids, step.positions = self.input_ids.clone(), self.positions.clone()
        step.start_pos = self.start_pos.clone()
        step.tables = None if self.tables is None else self.tables.own(ratios, columns)
        return step

    def assign(self, other: Step) -> None:
        """Fills these tensors with those of a step of as many tokens for each sequence."""
        self.input_ids.copy_(other.input_ids)
        self.positions.copy_(other.positions)
        self.start_pos.copy_(other.start_pos)
        if self.tables is not None and other.tables is not None:
            self.tables.assign(other.tables)

    def entries(self, ratio: int) -> int:
        """Compressed entries that all sequences complete in this pass."""
        return sum((s + n) // ratio - s // ratio for s, n in zip(self.starts, self.lengths, strict=True))

    def note(self, name: str, value: Tensor) -> None:
        """Shows an intermediate to the trace, if there is one."""
        if self.trace is not None:
            self.trace(f"{self.scope}.{name}", value)

    def own_pages(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [num_seqs * n, D] of a pass without a cache as one page per sequence, and the table that says so."""
        batch = len(self.lengths)
        pages = rows.unflatten(0, (batch, -1)) if len(rows) else rows.new_zeros(batch, 1, rows.shape[-1])
        return pages, torch.arange(batch, dtype=torch.int32, device=rows.device).unsqueeze(1)


class Tables:
    """Where the rows of a pass over cached sequences lie: block tables, and slots of what it writes."""

    def __init__(self, sequences: list[Sequence], lengths: list[int], device: torch.device) -> None:
        self._sequences, self._lengths, self._device = sequences, lengths, device
        self._block = block = sequences[0].store.block_tokens
        self._width = width = -(-max(s.computed + n for s, n in zip(sequences, lengths, strict=True)) // block)
        self._entries = array("i", [-1]) * (len(sequences) * width)
        windows = self._entries[:]
        slots = []
        for b, (s, n) in enumerate(zip(sequences, lengths, strict=True)):
            known = min(len(s.entry_blocks), width)
            self._entries[b * width : b * width + known] = s.entry_blocks[:known]
            for j, at in s.window_blocks.items():
                if j < width:
                    windows[b * width + j] = at
            slots += [windows[b * width + p // block] * block + p % block for p in range(s.computed, s.computed + n)]
        # int32 [num_seqs, max_blocks], of entries and keys, and of window rows
        self.block_table, self.window_table = (
            torch.frombuffer(table, dtype=torch.int32).view(-1, width).to(device) for table in (self._entries, windows)
        )
        self.window_slots = torch.tensor(slots, dtype=torch.int64, device=device)  # [T]
        states = [0 if s.state is None else s.state for s in sequences]
        self.state_slots = torch.tensor(states, dtype=torch.int32, device=device)  # int32 [num_seqs]
        self._entry_slots: dict[int, Tensor] = {}

    def entry_slots(self, ratio: int) -> Tensor:
        """int64 [entries completed in the pass]; -1 for those that are known already."""
        if ratio not in self._entry_slots:
            per_block, slots = self._block // ratio, []
            for b, (s, n) in enumerate(zip(self._sequences, self._lengths, strict=True)):
                for entry in range(s.computed // ratio, (s.computed + n) // ratio):
                    slot = self._entries[b * self._width + entry // per_block] * per_block + entry % per_block
                    slots.append(-1 if (entry + 1) * ratio <= s.known else slot)
            self._entry_slots[ratio] = torch.tensor(slots, dtype=torch.int64, device=self._device)
        return self._entry_slots[ratio]

    def own(self, ratios: Iterable[int], columns: int) -> Tables:
        """The same tables in tensors that nothing else refers to, a multiple of `columns` wide."""
        tables = copy.copy(self)
        tables._sequences = []  # else what keeps these tables would keep the sequences, and they their store
        shape = (len(self.block_table), -(-self.block_table.shape[1] // columns) * columns)
        tables.block_table, tables.window_table = (self.block_table.new_full(shape, -1) for _ in range(2))
        tables.window_slots, tables.state_slots = self.window_slots.clone(), self.state_slots.clone()
        tables._entry_slots = {ratio: self.entry_slots(ratio).clone() for ratio in ratios}
        tables.assign(self)
        return tables

    def assign(self, other: Tables) -> None:
        """Fills these tables, which may be wider, with others."""
        width = other.block_table.shape[1]
        self.block_table[:, :width].copy_(other.block_table)
        self.window_table[:, :width].copy_(other.window_table)
        self.window_slots.copy_(other.window_slots)
        self.state_slots.copy_(other.state_slots)
        for ratio, slots in self._entry_slots.items():
            if len(slots):
                slots.copy_(other.entry_slots(ratio))
