"""Packed sequences of one call, as the references walk them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor


def sequences(cu_seqlens_q: Tensor, start_pos: Tensor) -> Iterator[tuple[int, int, int, int]]:
    """(sequence, first packed token, end, tokens it had before the call) of every sequence."""
    ends = cu_seqlens_q.tolist()
    starts = start_pos.tolist()
    if ends[0] != 0 or any(a > b for a, b in pairwise(ends)) or min(starts, default=0) < 0:
        raise ValueError(
            f"v4npu: cu_seqlens_q must rise from 0 and start_pos must not be negative, got {ends} and {starts}"
        )
    for b, start in enumerate(starts):
        yield b, ends[b], ends[b + 1], start
