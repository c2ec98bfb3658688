"""The whole model: ids to logits, with or without a cache (v4_spec 2.1, 2.3, 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from v4npu.cache import Cache
from v4npu.model.block import Block, MTPBlock
from v4npu.model.config import Config
from v4npu.model.hyper_connection import add_mixes, collapse
from v4npu.model.install import install, missing
from v4npu.model.linear import Linear, Norm
from v4npu.model.step import Step, Trace

if TYPE_CHECKING:
    from v4npu.tokenizer import Tokenizer

NUMERICS = ("official", "exact")


class Model(nn.Module):
    """A DeepSeek-V4 model. Build it with `v4npu.load`, or empty, to be filled by `install`.

    Args:
        config: the configuration.
        numerics: "official" rounds wherever DeepSeek's code does; "exact" quantises no activation, KV row or index key.
        dtype: of activations and unquantised weights: bfloat16, float32 or float64.
        device: where the weights and caches live.
    """

    def __init__(
        self,
        config: Config,
        *,
        numerics: str = "official",
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if numerics not in NUMERICS:
            raise ValueError(f'numerics must be "official" or "exact", got {numerics!r}')
        if dtype not in (torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"dtype must be bfloat16, float32 or float64, got {dtype}")
        self.config, self.numerics, self.dtype, self.device = config, numerics, dtype, torch.device(device)
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

    def drop_mtp(self) -> None:
        """Forgets the MTP layer, for checkpoints that come without one."""
        self.mtp = nn.ModuleList()

    def forward(
        self,
        input_ids: Tensor,
        *,
        cache: Cache | None = None,
        last_only: bool = False,
        trace: Trace | None = None,
    ) -> Tensor:
        """Next-token logits, float32 [batch, num_tokens, vocab_size] ([batch, 1, vocab_size] with last_only).

        Args:
            input_ids: int64 [batch, num_tokens], each in 0..vocab_size-1.
            cache: continue at cache.num_tokens: prefill, a further chunk and one-token decode are the same call.
            last_only: only the last position's logits.
            trace: called with the name and value of intermediates, layer by layer.

        Raises:
            ValueError: ids of the wrong shape, dtype or range, no token, a cache of another model or too small.
        """
        streams = self.streams(input_ids, cache=cache, trace=trace)
        return self.logits(streams[:, -1:] if last_only else streams)

    def streams(self, input_ids: Tensor, *, cache: Cache | None = None, trace: Trace | None = None) -> Tensor:
        """Residual streams after the last layer [batch, num_tokens, hc_mult, hidden_size]."""
        step = self._step(input_ids, cache, trace)
        streams = self.embed(step.input_ids).unsqueeze(1).expand(-1, self.config.hc_mult, -1)
        for i, layer in enumerate(self.layers):
            step.scope = f"layers.{i}"
            streams = layer(streams, step, None if cache is None else cache.layers[i])
            step.note("streams", streams)
        if cache is not None:
            cache.num_tokens = step.end
        return streams.unflatten(0, (step.batch, step.length))

    def logits(self, streams: Tensor) -> Tensor:
        """float32 logits of residual streams [..., hc_mult, hidden_size]."""
        return self.head.wide(self.norm(collapse(self, self.config, streams.flatten(0, -3)))).unflatten(
            0, streams.shape[:-2]
        )

    def draft(
        self, streams: Tensor, next_ids: Tensor, *, cache: Cache | None = None, trace: Trace | None = None
    ) -> tuple[Tensor, Tensor]:
        """The MTP head: logits [batch, num_tokens, vocab_size] of the token after next, and the draft layer's streams.

        Args:
            streams: residual streams of `num_tokens` positions, as `streams` returns them.
            next_ids: int64 [batch, num_tokens], the token that follows each position.
            cache: a cache of its own, from `new_cache(..., draft=True)`.
        """
        if not self.mtp:
            raise ValueError("draft: this checkpoint has no MTP layer")
        layer: MTPBlock = self.mtp[0]  # type: ignore[assignment]
        step = self._step(next_ids, cache, trace)
        if streams.shape[:2] != next_ids.shape:
            raise ValueError(f"streams must be [{step.batch}, {step.length}, ...], got {list(streams.shape)}")
        step.scope = "mtp.0"
        out = layer.draft(streams.flatten(0, 1), self.embed(step.input_ids), step, cache.layers[0] if cache else None)
        if cache is not None:
            cache.num_tokens = step.end
        logits = self.head.wide(layer.norm(collapse(layer, self.config, out)))
        shape = (step.batch, step.length)
        return logits.unflatten(0, shape), out.unflatten(0, shape)

    def new_cache(self, batch: int = 1, max_tokens: int | None = None, *, draft: bool = False) -> Cache:
        """An empty cache for `batch` sequences of at most `max_tokens` tokens; it allocates as it grows."""
        layers: Iterable[Block] = self.mtp if draft else self.layers  # type: ignore[assignment]
        limit = self.config.max_position_embeddings if max_tokens is None else max_tokens
        return Cache([layer.attn for layer in layers], batch, limit, self.dtype, self.device)

    def generate(self, prompt: str | list[int] | Tensor, **options: Any) -> Iterator[Any]:
        """Continues a prompt: text in, text pieces out; ids in, ids out. See v4npu.generate.generate."""
        from v4npu.generate import generate

        return generate(self, prompt, **options)

    def _step(self, input_ids: Tensor, cache: Cache | None, trace: Trace | None) -> Step:
        if not isinstance(input_ids, Tensor) or input_ids.dtype != torch.int64 or input_ids.dim() != 2:
            got = (
                f"{input_ids.dtype} {list(input_ids.shape)}"
                if isinstance(input_ids, Tensor)
                else type(input_ids).__name__
            )
            raise ValueError(f"input_ids must be int64 [batch, num_tokens], got {got}")
        batch, length = input_ids.shape
        if batch == 0 or length == 0:
            raise ValueError(f"input_ids must hold at least one token, got {list(input_ids.shape)}")
        low, high = int(input_ids.min()), int(input_ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(f"input_ids must be in 0..{self.config.vocab_size - 1}, got {low}..{high}")
        start = 0
        if cache is not None:
            cache.admit(batch, length)
            start = cache.num_tokens
        return Step(input_ids.to(self.device).flatten(), batch, length, start, trace)
