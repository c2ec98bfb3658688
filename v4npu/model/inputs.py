"""Token ids, streams and masks as callers give them, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from v4npu.model import Model


def check_ids(name: str, ids: Tensor, model: Model) -> tuple[int, int]:
    """Batch and length of ids int64 [batch, num_tokens]; ValueError when they are anything else, or the model empty."""
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.dim() != 2:
        got = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"{name} must be int64 [batch, num_tokens], got {got}")
    batch, length = ids.shape
    if batch == 0 or length == 0:
        raise ValueError(f"{name} must hold at least one token, got {list(ids.shape)}")
    if ids.is_meta:
        raise ValueError(f"{name} must hold values, got a meta tensor")
    if torch.compiler.is_compiling():  # no value is known yet, and asking for one would break the graph
        return batch, length
    low, high = _range(ids)
    if low < 0 or high >= model.config.vocab_size:
        raise ValueError(f"{name} must be in 0..{model.config.vocab_size - 1}, got {low}..{high}")
    if model.embed.weight.is_meta:
        raise ValueError("the model has no weights: v4npu.load fills one, or install() with each of missing()")
    return batch, length


def _range(ids: Tensor) -> tuple[int, int]:
    if ids.numel() > 64:
        return int(ids.min()), int(ids.max())
    known = [i for row in ids.tolist() for i in row]  # of a few tokens sooner than two operators and two waits
    return min(known), max(known)


def check_streams(streams: Tensor, shape: list[int]) -> None:
    """ValueError unless streams [batch, num_tokens, hc_mult, hidden_size] are of this shape."""
    if not isinstance(streams, Tensor) or list(streams.shape) != shape:
        got = list(streams.shape) if isinstance(streams, Tensor) else type(streams).__name__
        raise ValueError(f"streams must be {shape}, got {got}")


def mask_spans(mask: Tensor, ids: Tensor) -> list[tuple[int, int]]:
    """Where each row's tokens begin and end, from a mask of ones between paddings of zeros."""
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask must be {list(ids.shape)} like input_ids, got {got}")
    if mask.is_meta:
        raise ValueError("attention_mask must hold values, got a meta tensor")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("attention_mask must hold zeros and ones")
    spans = []
    for b, row in enumerate(mask.tolist()):
        first, count = (row.index(1), int(sum(row))) if 1 in row else (0, 0)
        if count == 0 or not all(row[first : first + count]):
            raise ValueError(f"attention_mask must be one run of ones in every row, row {b} is not")
        spans.append((first, first + count))
    return spans
