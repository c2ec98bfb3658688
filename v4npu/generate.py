"""Generation: prefill, then one token after the other, greedy or sampled."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from v4npu.model import Model
    from v4npu.speculative import Acceptance


NOT_FINITE = "generate: the model's logits are not finite"


class Sampling:
    """How tokens are chosen, with a random generator of its own."""

    def __init__(self, device: torch.device, temperature: float, top_p: float, seed: int | None) -> None:
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
        if not 0 <= temperature <= sys.float_info.max:
            raise ValueError(f"temperature must be finite and not negative, got {temperature!r}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p!r}")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
            raise ValueError(f"seed must be None or an integer in 0..2**63-1, got {seed!r}")
        self.temperature, self.top_p = temperature, top_p
        self.generator = torch.Generator(device=device)
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)

    def probs(self, logits: Tensor) -> Tensor:
        """What a token is drawn from, float32 [vocab_size]: all on the largest logit (the smaller id on ties) when
        temperature is 0."""
        if self.temperature == 0:
            return torch.zeros_like(logits).index_fill(0, _greedy(logits), 1.0)
        if not bool(torch.isfinite(logits).all()):
            raise RuntimeError(NOT_FINITE)
        probs = (logits / max(self.temperature, 1e-5)).softmax(-1)
        if self.top_p < 1:
            ordered, order = probs.sort(descending=True, stable=True)
            outside = ordered.cumsum(-1) - ordered >= self.top_p  # the token that crosses top_p is still inside
            probs = probs.index_fill(0, order[outside], 0.0)
            probs = probs / probs.sum()
        return probs

    def draw(self, probs: Tensor) -> int:
        """One id from probabilities, or any positive weights [vocab_size]."""
        if self.temperature == 0:
            return int(probs.argmax())
        noise = torch.empty_like(probs).exponential_(generator=self.generator)
        return int((probs / noise).argmax())

    def next(self, logits: Tensor) -> int:
        """One id from float32 logits [vocab_size]."""
        return int(_greedy(logits)) if self.temperature == 0 else self.draw(self.probs(logits))


def _greedy(logits: Tensor) -> Tensor:
    """The id of the largest logit, the smaller one on ties, int64 [1]."""
    low, high = logits.min(), logits.max()
    if not (math.isfinite(low) and math.isfinite(high)):  # both are NaN where one logit is
        raise RuntimeError(NOT_FINITE)
    return (logits == high).nonzero()[0]


def prompt_ids(model: Model, prompt: str | Sequence[int] | Tensor, max_new_tokens: int = 0) -> list[int]:
    """The ids of a prompt: text after the token that begins a document, if the tokenizer has one; ids as they are.

    Raises:
        ValueError: an empty prompt, ids out of range, or more tokens than the model's positions.
    """
    if type(max_new_tokens) is not int or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be an integer of at least 0, got {max_new_tokens!r}")
    ids: list[Any]
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise ValueError("prompt: this checkpoint has no tokenizer.json, give ids instead of text")
        if not prompt:
            raise ValueError("prompt must not be empty")
        bos = model.tokenizer.bos_id
        ids = ([] if bos is None else [bos]) + model.tokenizer.encode(prompt)
    else:
        if isinstance(prompt, Tensor):
            if prompt.dim() != 1 and (prompt.dim() != 2 or len(prompt) != 1):
                shape = list(prompt.shape)
                raise ValueError(f"prompt must be one sequence, [num_tokens] or [1, num_tokens], got a tensor {shape}")
            ids = prompt.flatten().tolist()
        elif isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray)):
            ids = [*prompt]
        else:
            raise TypeError(f"prompt must be text or integer ids, got {type(prompt).__name__}")
        size = model.config.vocab_size
        if not ids:
            raise ValueError("prompt must not be empty")
        if wrong := [i for i in ids if type(i) is not int or not 0 <= i < size]:
            raise ValueError(f"prompt must be text or integer ids in 0..{size - 1}, got {wrong[0]!r}")
    total, limit = len(ids) + max_new_tokens, model.config.max_position_embeddings
    if total > limit:
        raise ValueError(f"prompt and max_new_tokens need {total} positions, the model has {limit}")
    return ids


def generate(
    model: Model,
    prompt: str | Sequence[int] | Tensor,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = 0,
    stop_at_eos: bool = True,
    draft_tokens: int = 0,
    acceptance: Acceptance | None = None,
) -> Iterator[Any]:
    """Continues a prompt, piece by piece.

    Args:
        prompt: text (control tokens in it are plain text), or the ids of one sequence, also [1, num_tokens].
        max_new_tokens: how many tokens at most.
        temperature: 0 is greedy.
        top_p: sample from the smallest set of tokens that holds this much probability.
        seed: of the sampling; None draws a new one.
        stop_at_eos: end when the model says so.
        draft_tokens: let the MTP head guess this many tokens ahead, verified in one pass. What is generated is
            distributed as without; greedy text is the same where a pass over several tokens rounds like one over
            one, which a strict model guarantees.
        acceptance: filled with how many guesses were made and held.

    Returns:
        An iterator of text pieces for text, of ids for ids.

    Raises:
        ValueError: an empty prompt, an argument out of range, or more tokens than the model's positions.
        RuntimeError: the logits are not finite.
    """
    sampling = Sampling(model.device, temperature, top_p, seed)
    ids = prompt_ids(model, prompt, max_new_tokens)
    stop = set(model.config.eos_token_ids) if stop_at_eos else set()
    if acceptance is not None or draft_tokens != 0:
        from v4npu.speculative import Acceptance, speculate

        if not (acceptance is None or isinstance(acceptance, Acceptance)):
            raise TypeError(f"acceptance must be a v4npu.speculative.Acceptance, got {type(acceptance).__name__}")
    if draft_tokens != 0:
        tokens = speculate(model, ids, max_new_tokens, sampling, stop, draft_tokens, acceptance)
    else:
        tokens = _tokens(model, ids, max_new_tokens, sampling, stop)
    return _text(model, tokens) if isinstance(prompt, str) else tokens


def _tokens(model: Model, ids: list[int], count: int, sampling: Sampling, stop: set[int]) -> Iterator[int]:
    cache = model.new_cache(1, len(ids) + max(count, 1))
    pending = torch.tensor([ids], dtype=torch.int64, device="cpu")
    for _ in range(count):
        with torch.inference_mode():
            logits = model(pending, cache=cache, last_only=True)
            token = sampling.next(logits[0, -1])
        if token in stop:
            return
        yield token
        pending = torch.tensor([[token]], dtype=torch.int64, device="cpu")


def _text(model: Model, tokens: Iterator[int]) -> Iterator[str]:
    assert model.tokenizer is not None
    stream = model.tokenizer.stream()
    for token in tokens:
        if piece := stream.push(token):
            yield piece
    if rest := stream.finish():
        yield rest
