"""Window, CSA and HCA attention: one class, told apart by the layer's compression ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu import ops
from v4npu.cache import LayerCache
from v4npu.model.compressor import Compressor
from v4npu.model.config import Config
from v4npu.model.indexer import Indexer
from v4npu.model.linear import Activation, Linear, Norm, float_parameter
from v4npu.model.module import Module
from v4npu.model.step import Step
from v4npu.reference.rope import rope_frequencies


def layer_frequencies(config: Config, ratio: int) -> Tensor:
    """RoPE frequencies of a layer: plain rope_theta in window layers, compress_rope_theta with YaRN in the others."""
    if ratio == 0:
        return rope_frequencies(config.qk_rope_head_dim, config.rope_theta)
    yarn = config.rope_scaling
    if yarn is None:
        return rope_frequencies(config.qk_rope_head_dim, config.compress_rope_theta)
    return rope_frequencies(
        config.qk_rope_head_dim,
        config.compress_rope_theta,
        factor=yarn.factor,
        original_max_position=yarn.original_max_position_embeddings,
        beta_fast=yarn.beta_fast,
        beta_slow=yarn.beta_slow,
    )


class Attention(Module):
    """x [T, d] -> [T, d]."""

    freqs: Tensor

    def __init__(self, config: Config, ratio: int, official: bool, dtype: torch.dtype) -> None:
        super().__init__()
        d, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_dim
        self.config, self.ratio, self.official = config, ratio, official
        self.window = config.sliding_window
        self.scale = head_dim**-0.5
        self.wq_a = Linear(d, config.q_lora_rank, dtype)
        self.q_norm = Norm(config.q_lora_rank, config.rms_norm_eps, dtype)
        self.wq_b = Linear(config.q_lora_rank, heads * head_dim, dtype)
        self.wkv = Linear(d, head_dim, dtype)
        self.kv_norm = Norm(head_dim, config.rms_norm_eps, dtype)
        self.attn_sink = float_parameter(heads, dtype=dtype)
        self.wo_a = Linear(heads * head_dim // config.o_groups, config.o_groups * config.o_lora_rank, dtype)
        self.wo_b = Linear(config.o_groups * config.o_lora_rank, d, dtype)
        self.register_buffer("freqs", layer_frequencies(config, ratio), persistent=False)
        self.compressor = Compressor(config, ratio, head_dim, "fp8" if official else "none", dtype) if ratio else None
        self.indexer = Indexer(config, ratio, official, dtype) if config.overlap(ratio) else None

    def forward(self, hidden: Tensor, step: Step, cache: LayerCache | None) -> Tensor:
        x = Activation(hidden, self.official)
        qa = Activation(self.q_norm(self.wq_a(x)), self.official)
        q = self.wq_b(qa).unflatten(-1, (self.config.num_attention_heads, self.config.head_dim))
        tables = step.tables
        q, kv = ops.qkv_prepare(
            q,
            self.wkv(x),
            self.kv_norm.weight,
            step.positions,
            self.freqs,
            self.config.rms_norm_eps,
            self.official,
            None if cache is None else cache.window,
            None if tables is None else tables.window_slots,
        )
        if cache is None or tables is None:
            window = step.own_pages(kv)
        else:
            window = cache.window, tables.window_table
        o = self._attend(q, window, x, qa, step, cache)
        del q  # the largest tensor of a layer
        grouped = o.flatten(1).unflatten(1, (self.config.o_groups, -1))
        return self.wo_b(
            Activation(ops.grouped_linear(grouped, self.wo_a.weight, self.wo_a.scale).flatten(1), self.official)
        )

    def _attend(
        self,
        q: Tensor,
        window: tuple[Tensor, Tensor],
        x: Activation,
        qa: Activation,
        step: Step,
        cache: LayerCache | None,
    ) -> Tensor:
        seqs = (step.cu_seqlens_q, step.start_pos)
        rope, official, at, freqs = self.config.qk_rope_head_dim, self.official, step.positions, self.freqs
        if self.compressor is None:
            return ops.window_attention(
                q, *window, *seqs, self.attn_sink, self.scale, self.window, rope, official, at, freqs
            )
        picks = None if self.indexer is None else self.indexer(x, qa, self.freqs, step, cache)
        if cache is None or step.tables is None:
            entries, block_table = step.own_pages(self.compressor(x.x, self.freqs, step, None, None))
        else:
            assert cache.entries is not None
            self.compressor(x.x, self.freqs, step, cache.state, cache.entries)
            entries, block_table = cache.entries, step.tables.block_table
        step.note("query", q)
        step.note("entries", entries)
        rows = (q, *window, entries, block_table)
        if picks is None:
            return ops.hca_attention(
                *rows, *seqs, self.attn_sink, self.scale, self.window, self.ratio, rope, official, at, freqs
            )
        step.note("topk_indices", picks)
        return ops.csa_attention(
            *rows, picks, *seqs, self.attn_sink, self.scale, self.window, rope, official, at, freqs
        )
