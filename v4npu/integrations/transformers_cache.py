"""v4npu's state inside a transformers cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import CacheLayerMixin, DynamicCache

from v4npu.cache import Cache, CacheFull, unchanged_on_error
from v4npu.model import Model
from v4npu.model.hyper_connection import collapse
from v4npu.model.inputs import check_ids

UNLIMITED = 1 << 40  # tokens; transformers does not stop at max_position_embeddings either
ROOM = 4096  # tokens of each sequence that a device which cannot reserve address space begins with
MARK = "_filled_by_transformers"  # an attribute of a cache: how many tokens


class State(CacheLayerMixin):
    """What a batch has left behind in all layers; stands alone where a transformers cache lists its layers.

    A padded batch has as many columns as transformers thinks there are tokens. A sequence holds its own tokens only,
    so each is what it is alone; `real` says which columns they came in.

    Attributes:
        cache: the state itself, with `save`, `fork`, `nbytes`; None before the first call.
    """

    is_croppable = True
    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.cache: Cache | None = None
        self.real = torch.empty(0, 0, dtype=torch.bool, device="cpu")  # [batch, columns]
        self.last: Tensor | None = None  # [batch, d], hidden state of each sequence's last token; None once cropped

    def compute(
        self, model: Model, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> Tensor:
        """Appends tokens; hidden states [batch, num_tokens, d] behind the final norm.

        Padding gets the hidden state of the token before it, so that the last column is always about the sequence's
        last token, and 0 where there is none.
        """
        batch, length = check_ids("input_ids", input_ids, model)
        cache = self.cache
        if cache is None:
            store = model.stores.get(model, batch, ROOM)
            cache, before = model.new_cache(batch, UNLIMITED, store=store), self.real.new_empty(batch, 0)
        elif cache.batch != batch:
            raise ValueError(f"input_ids must have the {cache.batch} sequences of past_key_values, got {batch}")
        else:
            before = self.real
        real = _real(attention_mask, before, length)
        _check_positions(position_ids, before, real)
        rows = [ids[chosen].tolist() for ids, chosen in zip(input_ids.cpu(), real, strict=True)]
        cache.admit(model, [len(ids) for ids in rows])
        with unchanged_on_error(cache.sequences):
            packed = _extend(model, cache, rows)
            if bool(real.all()):
                hidden = packed.unflatten(0, (batch, length))
            else:
                hidden = self._spread(packed, real)
            self.cache, self.real, self.last = cache, torch.cat([before, real], dim=1), hidden[:, -1].clone()
        return hidden

    def _spread(self, packed: Tensor, real: Tensor) -> Tensor:
        """Rows of all real tokens [n, d] to where they stand [batch, columns, d]."""
        count = real.cumsum(1)
        first = count[:, -1].cumsum(0) - count[:, -1]
        at = (first.unsqueeze(1) + count - 1).clamp(0).to(packed.device)
        hidden = packed[at] if len(packed) else packed.new_zeros(*real.shape, packed.shape[-1])
        before = torch.zeros_like(hidden[:, 0]) if self.last is None else self.last
        return torch.where((count == 0).unsqueeze(2).to(packed.device), before.unsqueeze(1), hidden)

    def _select(self, chosen: list[int]) -> None:
        if (old := self.cache) is not None and (model := old.model()) is not None:
            sequences = [old.sequences[b].fork() for b in chosen]
            self.cache = Cache(model, old.store, sequences, old.max_tokens, old.draft)
            self.real = self.real[chosen]
            self.last = None if self.last is None else self.last[chosen]

    # -- what transformers asks of a layer ------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        if self.cache is None:
            raise AttributeError("batch_size")  # as transformers' own layers before the first call
        return self.cache.batch

    def get_seq_length(self) -> int:
        return self.real.shape[1]

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last -tokens_to_remove columns; v4npu/cache/sequence.py says what that costs."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop: tokens_to_remove must be 0 or negative, got {tokens_to_remove}")
        if self.cache is None or tokens_to_remove == 0:
            return
        self.real, self.last = self.real[:, : max(0, self.real.shape[1] + tokens_to_remove)], None
        for s, n in zip(self.cache.sequences, self.real.sum(1).tolist(), strict=True):
            s.rollback(n)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select([b for b in range(len(self.real)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        self._select(torch.arange(len(self.real), device="cpu")[indices.cpu()].tolist())

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        """Shares pages until one of the two writes to them: the way to keep a prompt's cache for several answers."""
        other = State()
        if self.cache is not None:
            other.cache, other.real, other.last = self.cache.fork(), self.real, self.last
        return other

    def offload(self) -> None:
        raise NotImplementedError("v4npu: a cache with v4npu's state stays where the model is")

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.update(key_states, value_states)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise ValueError(
            "past_key_values was filled under v4npu.enable: transformers' own forward cannot go on with it"
        )


def state_of(past: Any) -> State | None:
    """The state in past_key_values, if it is v4npu's."""
    layers = getattr(past, "layers", None)
    return layers[0] if isinstance(layers, list) and len(layers) == 1 and isinstance(layers[0], State) else None


def mark(out: Any) -> Any:
    """What transformers' own forward returned for an enabled model; its cache says so from now on, as do copies."""
    for value in out.values() if isinstance(out, dict) else out:
        if isinstance(value, TransformersCache):
            setattr(value, MARK, value.get_seq_length())
    return out


def left_to_theirs(past: Any) -> str:
    """Why a call with these past_key_values is left to transformers' own forward; empty if it is not."""
    marked = isinstance(past, TransformersCache) and hasattr(past, MARK) and state_of(past) is None
    return "a cache that transformers' own forward filled" if marked and past.get_seq_length() > 0 else ""


def check_not_cropped(past: Any, reason: str) -> None:
    """Raises ValueError where transformers' own forward would go on from a state that is ahead of the tokens."""
    layers, before = getattr(past, "layers", ()), getattr(past, MARK, 0)
    if any(hasattr(layer, "compressed_kv") for layer in layers) and 0 < (now := past.get_seq_length()) < before:
        raise ValueError(
            f"v4npu.enable: past_key_values were cropped from {before} to {now} tokens, but compressed entries cannot"
            f" be by transformers' own forward, to which {reason} is left (assisted decoding is v4npu's without)"
        )


def open_state(past: Any) -> State:
    """The state to go on with: that of past_key_values, or a new one if they are empty."""
    if (state := state_of(past)) is not None:
        return state
    empty = isinstance(past, DynamicCache) and not past.offloading and past.get_seq_length() == 0
    if past is not None and not empty:
        held = f" of {past.get_seq_length()} tokens" if isinstance(past, TransformersCache) else ""
        raise ValueError(
            "past_key_values must be None, an empty DynamicCache that is not offloaded, or what the enabled model"
            f" returned, got {type(past).__name__}{held}"
        )
    return State()


def close_state(past: Any, state: State) -> TransformersCache:
    """past_key_values, the same object if there was one, holding `state`."""
    if past is None:
        past = DynamicCache()
    if state_of(past) is not state:
        past.layers[:] = [state]
    return past


def _extend(model: Model, cache: Cache, rows: list[list[int]]) -> Tensor:
    """Hidden states [all new tokens, d]."""
    chosen = [(s, ids) for s, ids in zip(cache.sequences, rows, strict=True) if ids]
    if not chosen:
        return torch.empty(0, model.config.hidden_size, dtype=model.dtype, device=model.device)
    while True:
        try:
            streams = model.extend([s for s, _ in chosen], [ids for _, ids in chosen])
            return model.norm(collapse(model, model.config, streams))
        except CacheFull:
            if model.device.type == "cpu":  # which has all of its memory to give already
                raise
            cache.store.grow()


def _real(mask: Tensor | None, before: Tensor, length: int) -> Tensor:
    """Which of the new columns hold tokens: bool [batch, length]."""
    batch, past = before.shape
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device="cpu")
    if not isinstance(mask, Tensor) or mask.shape != (batch, past + length):
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask must be [{batch}, {past + length}], with the {past} columns of past_key_values, got {got}"
        )
    mask = mask.cpu()
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("attention_mask must hold zeros and ones")
    if not torch.equal(mask[:, :past].bool(), before):
        raise ValueError("attention_mask must say of the tokens in past_key_values what it said when they came")
    return mask[:, past:].bool()


def _check_positions(position_ids: Tensor | None, before: Tensor, real: Tensor) -> None:
    """Raises ValueError where position_ids are others than counting the tokens of each sequence gives.

    Padding before them may be counted too: it is left out. Behind a prompt padded on the right transformers' generate
    counts from anywhere.
    """
    if position_ids is None:
        return
    if position_ids.dim() != 2 or position_ids.shape[0] not in (1, len(real)) or position_ids.shape[1] != real.shape[1]:
        raise ValueError(f"position_ids must be {list(real.shape)}, got {list(position_ids.shape)}")
    due = before.sum(1, keepdim=True) + real.cumsum(1) - 1
    padding = (~real).cumsum(1)
    for b, shift in enumerate(position_ids.cpu() - due):
        shift, known = shift[real[b]], (0, *padding[b, real[b]][:1].tolist())
        if len(shift) and (bool((shift != shift[0]).any()) or (bool(before[b].all()) and int(shift[0]) not in known)):
            raise ValueError(
                f"position_ids must count the tokens of each sequence, row {b} does not: shifted or packed sequences"
                " are not supported"
            )
