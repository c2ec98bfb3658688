"""Perplexity of a text: overlapping windows, every token scored once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from v4npu.tokenizer import characters

if TYPE_CHECKING:
    from v4npu.model import Model


@dataclass(frozen=True)
class Perplexity:
    """tokens scored, bytes of text, the mean loss in nats per token, and what follows from them."""

    tokens: int
    bytes: int
    nats_per_token: float
    bits_per_byte: float
    perplexity: float
    context: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def perplexity(
    model: Model, text: str, context: int = 1024, progress: Callable[[int, int], None] | None = None
) -> Perplexity:
    """Scores every token of `text`, in windows of `context` tokens that advance by half a window.

    So each token but those of the first window is predicted from at least context / 2 tokens before it.

    Args:
        text: what to score; its UTF-8 length is the denominator of bits per byte.
        context: tokens per window, at least 2.
        progress: called with the tokens done and their total.

    Raises:
        ValueError: no tokenizer, an empty text, or a context below 2 or beyond the model's positions.
    """
    if model.tokenizer is None:
        raise ValueError("text: this checkpoint has no tokenizer.json")
    most = model.config.max_position_embeddings
    if type(context) is not int or not 2 <= context <= most:
        raise ValueError(f"context must be 2..{most}, got {context!r}")
    ids = model.tokenizer.encode(text)
    if not ids:
        raise ValueError("text must not be empty")
    bos = model.tokenizer.bos_id
    sequence = torch.tensor(ids if bos is None else [bos, *ids], device="cpu")
    if len(sequence) < 2:
        raise ValueError("text must have at least two tokens")
    nats, scored, stride = 0.0, 0, max(1, context // 2)
    with torch.inference_mode():
        for at in range(0, len(sequence) - 1, stride):
            first = max(0, at + stride - context)
            window = sequence[first : at + stride + 1]
            logits = model(window[:-1].unsqueeze(0))[0, at - first :]
            targets = window[at - first + 1 :].to(logits.device)
            nats += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            scored += len(targets)
            if progress is not None:
                progress(scored, len(sequence) - 1)
    mean, size = nats / scored, len(characters(text).encode())
    return Perplexity(scored, size, mean, nats / math.log(2) / size, math.exp(min(mean, 700.0)), context)
