"""The whole model: ids to logits, with or without a cache."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from v4npu.cache import Cache, KeptStores, Sequence, Store
from v4npu.device import fixed_order
from v4npu.generate import generate
from v4npu.model.block import Block, MTPBlock
from v4npu.model.config import LIMITS, Config, integer
from v4npu.model.graph import run_step
from v4npu.model.hyper_connection import add_mixes, collapse
from v4npu.model.inputs import check_ids, check_streams, mask_spans
from v4npu.model.install import install, missing
from v4npu.model.linear import QUANTISED, Linear, Norm
from v4npu.model.memory import WeightMemory
from v4npu.model.module import Module
from v4npu.model.run import advance, refuse_derivatives, unchanged
from v4npu.model.step import Step, Trace

if TYPE_CHECKING:
    from v4npu.tokenizer import Tokenizer

NUMERICS = ("official", "exact")
MAX_BATCH = 1 << 16  # of a cache: every sequence has lists of its own on the host


class Model(Module):
    """A DeepSeek-V4 model. Build it with `v4npu.load`, or empty, to be filled by `install`.

    Args:
        config: the configuration.
        numerics: "official" rounds wherever DeepSeek's code does; "exact" quantises no activation, KV row or index key.
        dtype: of activations and unquantised weights: bfloat16, float32 or float64.
        device: where the weights and caches live.
        strict: results do not depend on batch and chunks, bit for bit, where no gradient is recorded.
    """

    def __init__(
        self,
        config: Config,
        *,
        numerics: str = "official",
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        strict: bool = False,
    ) -> None:
        super().__init__()
        if numerics not in NUMERICS:
            raise ValueError(f'numerics must be "official" or "exact", got {numerics!r}')
        if dtype not in (torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"dtype must be bfloat16, float32 or float64, got {dtype}")
        self.config, self.numerics, self.dtype, self.device = config, numerics, dtype, torch.device(device)
        self.strict = strict
        self.memory, self.stores = WeightMemory(self.device), KeptStores()
        # Kernels with a fixed order of summation are strict by themselves. Elsewhere the layers take one token of one
        # sequence at a time, so that every product has the same shape whatever else is in the batch.
        self.one_by_one = strict and not fixed_order(self.device, dtype)
        self.tokenizer: Tokenizer | None = None
        official = numerics == "official"
        layers = config.num_hidden_layers
        vocab, d = config.vocab_size, config.hidden_size  # Embedding's own initialisation of meta tensors imports sympy
        self.embed = nn.Embedding(vocab, d, _weight=torch.empty(vocab, d, dtype=dtype, device="meta"))
        self.layers = nn.ModuleList(Block(config, i, official, dtype) for i in range(layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps, dtype)
        self.head = Linear(config.hidden_size, config.vocab_size, dtype)
        add_mixes(self, "hc_head", config, dtype, head=True)
        extra = range(layers, layers + config.num_nextn_predict_layers)
        self.mtp = nn.ModuleList(MTPBlock(config, i, official, dtype) for i in extra)
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.device))

    def install(self, name: str, tensor: Tensor) -> None:
        """Puts a checkpoint tensor in place: official name, any stored format; ValueError when it does not fit."""
        install(self, name, tensor)

    def missing(self) -> list[str]:
        """Official names of the tensors not installed yet."""
        return missing(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Model:
        """Refuses .to(), .half() and the like, which scales, weights that are kept wider and caches cannot follow."""
        scale = torch.empty(0, dtype=torch.float8_e8m0fnu, device=self.device)
        if (after := fn(scale)).dtype != scale.dtype or after.device != scale.device:
            raise TypeError("a v4npu model is neither converted nor moved: v4npu.load(dtype=..., device=...) it so")
        return super()._apply(fn, recurse)

    def requires_grad_(self, requires_grad: bool = True) -> Model:
        """Asks for gradients of what a loss trains: float weights, but no quantised ones and no bias of a gate.

        Where weights are quantised, of exact numerics (else a ValueError): quantised activations pass none on.
        """
        if requires_grad and self.numerics == "official" and any(p.dtype in QUANTISED for p in self.parameters()):
            raise ValueError('requires_grad_: numerics must be "exact" with quantised weights, got "official"')
        for name, p in self.named_parameters():
            trained = p.is_floating_point() and p.dtype not in QUANTISED and not name.endswith(".gate.bias")
            p.requires_grad_(requires_grad and trained)
        return self

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        last_only: bool = False,
        trace: Trace | None = None,
    ) -> Tensor:
        """Next-token logits, float32 [batch, num_tokens, vocab_size] ([batch, 1, vocab_size] with last_only).

        Args:
            input_ids: int64 [batch, num_tokens], each in 0..vocab_size-1.
            attention_mask: [batch, num_tokens], 1 for tokens and 0 for padding, which may stand on either side of a
                row: each sequence gets what it gets alone, and nothing of the padding enters the cache.
            cache: continue at cache.num_tokens: prefill, a further chunk and one-token decode are the same call.
            last_only: only the last position's logits; the last that is no padding.
            trace: called with the name and value of intermediates, layer by layer.

        Raises:
            ValueError: ids of the wrong shape, dtype or range, no token, a mask with holes, a cache of another model
                or too small, or one (or one token at a time of strict) where gradients are recorded: its pages hold
                values alone. A mask does without pages then.
            CacheFull: the cache's byte limit. Whatever is raised, the cache is as it was.
        """
        with unchanged(cache):
            return self.logits(self._streams(input_ids, attention_mask, cache, trace, last_only))

    def streams(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Residual streams after the last layer [batch, num_tokens, hc_mult, hidden_size]; 0 where padded."""
        with unchanged(cache):
            return self._streams(input_ids, attention_mask, cache, trace)

    def logits(self, streams: Tensor, layer: MTPBlock | None = None) -> Tensor:
        """float32 logits of residual streams [..., hc_mult, hidden_size], the model's or those of a draft `layer`."""
        module = self if layer is None else layer  # each collapses streams and normalises on its own
        rows = streams.flatten(0, -3)
        parts = rows.split(1) if self.one_by_one else [rows]
        logits = [self.head.wide(module.norm(collapse(module, self.config, part))) for part in parts]
        return (logits[0] if len(parts) == 1 else torch.cat(logits)).unflatten(0, streams.shape[:-2])

    def draft(
        self, streams: Tensor, next_ids: Tensor, *, cache: Cache | None = None, trace: Trace | None = None
    ) -> tuple[Tensor, Tensor]:
        """The MTP head: logits [batch, num_tokens, vocab_size] of the token after next, and the draft layer's streams.

        Args:
            streams: residual streams of `num_tokens` positions, as `streams` returns them.
            next_ids: int64 [batch, num_tokens], the token that follows each position.
            cache: one of its own, from `new_cache(..., draft=True)`.
        """
        if not self.mtp:
            raise ValueError("draft: this checkpoint has no MTP layer")
        layer: MTPBlock = self.mtp[0]  # type: ignore[assignment]
        batch, length = check_ids("next_ids", next_ids, self)
        check_streams(streams, [batch, length, self.config.hc_mult, self.config.hidden_size])
        packed = streams.flatten(0, 1)
        if cache is None and self.one_by_one:
            refuse_derivatives(self, "strict", streams)
            cache = self.new_cache(batch, length, draft=True)
        with unchanged(cache):
            if cache is None:
                step = Step(next_ids.to(self.device).flatten(), [length] * batch, [0] * batch, trace, "mtp.0")
                out = layer.draft(packed, self.embed(step.input_ids), step, None)
            else:
                refuse_derivatives(self, "cache", streams)
                cache.admit(self, [length] * batch, draft=True)
                begin = [b * length - n for b, n in enumerate(cache.lengths)]  # of each one's position 0 in packed
                store = cache.store

                def pass_(step: Step, chosen: list[int]) -> Tensor:
                    step.scope = "mtp.0"
                    spans = zip(chosen, step.starts, step.lengths, strict=True)
                    rows = torch.cat([packed[begin[b] + at : begin[b] + at + n] for b, at, n in spans])
                    return layer.draft(rows, self.embed(step.input_ids), step, store.layers[0])

                out = advance(self, cache.sequences, next_ids.tolist(), pass_, trace)
            out = out.unflatten(0, (batch, length))
            return self.logits(out, layer), out

    def new_cache(
        self, batch: int = 1, max_tokens: int | None = None, *, draft: bool = False, store: Store | None = None
    ) -> Cache:
        """An empty cache for `batch` sequences of at most `max_tokens` tokens; it allocates as it grows.

        Args:
            batch: how many sequences, at most 65,536.
            max_tokens: of each; the model's positions if not given.
            draft: for `draft` instead of `forward`.
            store: share the pages and the byte limit of this one, from `new_store`.
        """
        limit = self.config.max_position_embeddings if max_tokens is None else max_tokens
        integer("batch", batch, (1, MAX_BATCH))
        integer("max_tokens", limit, LIMITS["max_position_embeddings"])
        store = store if store is not None else self.stores.get(self, batch, limit, draft)
        return Cache(self, store, [Sequence(store) for _ in range(batch)], limit, draft)

    def new_store(self, *, draft: bool = False, **options: Any) -> Store:
        """Pools for caches that share pages and a byte limit; options: see v4npu.cache.Store."""
        return Store(self.config, self.ratios(draft), self.dtype, self.numerics == "official", self.device, **options)

    def ratios(self, draft: bool = False) -> tuple[int, ...]:
        """Compression ratios of its layers, or of those that draft."""
        return tuple(layer.attn.ratio for layer in (self.mtp if draft else self.layers))  # type: ignore[union-attr, misc]

    def load_cache(self, path: str | Path, store: Store | None = None) -> Cache:
        """A cache that `Cache.save` wrote, in pools of its own or in `store`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a cache, corrupt or truncated, or of another model, numerics, dtype or version.
            CacheFull: `store` has no room.
        """
        from v4npu.cache.files import load

        return load(path, self, store)

    @property
    def fingerprint(self) -> str:
        """Tells this model's weights, as they are now, and configuration from any other's; a sample of every tensor's
        bytes counts."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 256)].contiguous().view(torch.uint8)
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + bytes(sample.cpu().tolist()))
        return digest.hexdigest()

    generate = generate

    def _streams(
        self, input_ids: Tensor, mask: Tensor | None, cache: Cache | None, trace: Trace | None, last_only: bool = False
    ) -> Tensor:
        """Streams [batch, num_tokens, m, d]; [batch, 1, m, d] with last_only, of the last that is no padding."""
        batch, length = check_ids("input_ids", input_ids, self)
        if cache is None and mask is None and not self.one_by_one:
            step = Step(input_ids.to(self.device).flatten(), [length] * batch, [0] * batch, trace)
            streams = self._layers(step, None).unflatten(0, (batch, length))
            return streams[:, -1:] if last_only else streams
        spans = [(0, length)] * batch if mask is None else mask_spans(mask, input_ids)
        rows = [ids[lo:hi] for ids, (lo, hi) in zip(input_ids.tolist(), spans, strict=True)]
        if cache is None and not self.one_by_one and self.records():  # no pages, then: row by row
            steps = [Step(torch.tensor(ids, device=self.device), [len(ids)], [0], trace) for ids in rows]
            packed = torch.cat([self._layers(step, None)[-1 if last_only else 0 :] for step in steps])
        else:
            if cache is None:
                refuse_derivatives(self, "strict")
                cache = self.new_cache(batch, length)
            cache.admit(self, [len(ids) for ids in rows])
            packed = self.extend(cache.sequences, rows, trace, last_only)
        if last_only:
            return packed.unsqueeze(1)
        if mask is None:
            return packed.unflatten(0, (batch, length))
        out = packed.new_zeros(batch, length, *packed.shape[1:])
        for b, part in enumerate(packed.split([len(ids) for ids in rows])):
            out[b, spans[b][0] : spans[b][1]] = part
        return out

    def extend(
        self, sequences: list[Sequence], rows: list[list[int]], trace: Trace | None = None, last_only: bool = False
    ) -> Tensor:
        """Appends tokens to sequences of one store, at least one to each.

        Returns:
            Packed streams [all new tokens, m, d]; [num_seqs, m, d] of the last ones with last_only.

        Raises:
            ValueError: gradients are recorded: pages hold values alone.
        """
        refuse_derivatives(self, "cache")
        store = sequences[0].store
        layers = functools.partial(self._layers, store=store)
        return advance(self, sequences, rows, lambda step, _: run_step(self, step, store, layers), trace, last_only)

    def _layers(self, step: Step, store: Store | None) -> Tensor:
        """Streams [T, m, d] of one pass through all layers."""
        streams = self.embed(step.input_ids).unsqueeze(1).expand(-1, self.config.hc_mult, -1).contiguous()
        for i, layer in enumerate(self.layers):
            step.scope = f"layers.{i}"
            streams = layer(streams, step, None if store is None else store.layers[i])
            step.note("streams", streams)
        return streams
