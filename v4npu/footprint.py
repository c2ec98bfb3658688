"""What a configuration costs: parameters, KV-cache bytes and FLOPs per generated token.

Pure arithmetic on a Config: nothing is loaded or measured. DeepSeek-V3.2, and for the cache also a bf16 GQA-8 model of
the same depth, stand beside each figure for comparison. docs/v4.md says which published figures it meets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from v4npu import _C
from v4npu.model.config import Config

# The formats of attention rows and of index keys (csrc/include/v4npu/row_format.h); V4's own come first.
KV_FORMATS = {"fp8+fp4": ("fp8_kv", "fp4_key"), "fp8": ("fp8_kv", "fp8_key"), "bf16": ("plain", "plain")}


@dataclass(frozen=True)
class Parameters:
    """Entries of weight matrices; quantisation scales and integer tables are not counted."""

    total: int
    total_with_mtp: int
    active: int  # read for one token, without embedding and head
    active_with_embeddings: int
    vectors: int  # on top of total_with_mtp: norms, biases, sinks and position tables (0.0003 % of V4-Pro)


@dataclass(frozen=True)
class KvBytes:
    """Bytes of cached rows for one sequence; the small per-request compressor state is not counted."""

    csa: int
    indexer: int
    hca: int
    window: int

    @property
    def total(self) -> int:
        return self.csa + self.indexer + self.hca + self.window


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one decoded token."""

    linear: int
    core_csa: int
    core_hca: int
    core_window: int
    indexer: int
    float_linear: int = 0  # the part of `linear` whose weights are bf16 or fp32
    indexer_weight: float = 0.5  # cost of one indexer operation in FP8 operations: FP4 half, FP8 one

    @property
    def core(self) -> int:
        return self.core_csa + self.core_hca + self.core_window

    @property
    def raw(self) -> int:
        return self.linear + self.core + self.indexer

    @property
    def fp8_equivalent(self) -> float:
        """Attention cores run in bf16, at half the rate of FP8; every linear counts as FP8."""
        return self.linear + 2 * self.core + self.indexer_weight * self.indexer

    @property
    def fp8_equivalent_strict(self) -> float:
        """As fp8_equivalent, with the bf16 and fp32 linears at half rate too."""
        return self.fp8_equivalent + self.float_linear


@dataclass(frozen=True)
class _Weights:
    packed: int  # matrices a checkpoint stores in FP8
    floating: int  # matrices it stores in bf16 or fp32
    expert: int  # one routed expert
    vectors: int  # norms, biases, sinks, position tables


def _layer(config: Config, layer: int) -> _Weights:
    """The tensors of one layer, in the order of checkpoint_names.py."""
    c, kind, ratio = config, config.layer_kind(layer), config.compress_ratios[layer]
    d, dim, heads, streams = c.hidden_size, c.head_dim, c.num_attention_heads, c.hc_mult
    mixes = (2 + streams) * streams
    expert = 3 * d * c.moe_intermediate_size
    packed = d * c.q_lora_rank + c.q_lora_rank * heads * dim + d * dim
    packed += heads * dim * c.o_lora_rank + c.o_lora_rank * c.o_groups * d + c.n_shared_experts * expert
    floating = d * c.n_routed_experts + 2 * mixes * streams * d
    vectors = 2 * d + c.q_lora_rank + dim + heads + 2 * (mixes + 3)
    vectors += c.n_routed_experts if layer >= c.num_hash_layers else 0
    if kind != "window":
        width = dim * (2 if kind == "csa" else 1)
        floating += 2 * d * width
        vectors += ratio * width + dim
    if kind == "csa":
        index = c.index_n_heads * c.index_head_dim
        packed += c.q_lora_rank * index
        floating += c.index_n_heads * d + 2 * d * 2 * c.index_head_dim
        vectors += ratio * 2 * c.index_head_dim + c.index_head_dim
    return _Weights(packed, floating, expert, vectors)


def parameters(config: Config) -> Parameters:
    """Counts the weights of the main model, of its MTP layers, and those one token reads."""
    d, streams, layers = config.hidden_size, config.hc_mult, config.num_hidden_layers
    hc_head, embeddings = streams * streams * d, 2 * config.vocab_size * d
    sizes = [_layer(config, i) for i in range(layers + config.num_nextn_predict_layers)]
    whole = [s.packed + s.floating + config.n_routed_experts * s.expert for s in sizes]
    read = [s.packed + s.floating + config.num_experts_per_tok * s.expert for s in sizes]
    total = embeddings + hc_head + sum(whole[:layers])
    mtp = sum(size + 2 * d * d + hc_head for size in whole[layers:])
    active = hc_head + sum(read[:layers])
    heads = 1 + config.num_nextn_predict_layers  # each collapses the streams and normalises on its own
    vectors = sum(s.vectors for s in sizes) + heads * (d + streams + 1) + (heads - 1) * 2 * d
    return Parameters(total, total + mtp, active, active + embeddings, vectors)


def row_bytes(config: Config, kv_format: str = "fp8+fp4") -> tuple[int, int]:
    """Bytes of one attention row and of one indexer key."""
    if kv_format not in KV_FORMATS:
        raise ValueError(f"v4npu.footprint: kv_format must be one of {', '.join(KV_FORMATS)}, got {kv_format!r}")
    row, key = KV_FORMATS[kv_format]
    rope = config.qk_rope_head_dim
    return (
        _C.row_format(row, config.head_dim, rope, torch.bfloat16.itemsize).row,
        _C.row_format(key, config.index_head_dim, rope, torch.bfloat16.itemsize).row,
    )


def kv_bytes(config: Config, context: int, kv_format: str = "fp8+fp4") -> KvBytes:
    """Cache of one sequence of `context` tokens: compressed entries grow, the window does not."""
    _positive(context)
    row, key = row_bytes(config, kv_format)
    entries = {kind: _entries(config, kind, context) for kind in ("csa", "hca")}
    window = config.num_hidden_layers * min(context, config.sliding_window) * row
    return KvBytes(sum(entries["csa"]) * row, sum(entries["csa"]) * key, sum(entries["hca"]) * row, window)


def flops(config: Config, context: int) -> Flops:
    """Work of the token that follows `context` others."""
    _positive(context)
    sizes = [_layer(config, i) for i in range(config.num_hidden_layers)]
    head = config.vocab_size * config.hidden_size
    floating = head + sum(s.floating for s in sizes)
    packed = sum(s.packed + config.num_experts_per_tok * s.expert for s in sizes)
    row = 4 * config.num_attention_heads * config.head_dim  # q.k and p.v, a multiply and an add each
    window = min(context, config.sliding_window)
    csa, hca = _entries(config, "csa", context), _entries(config, "hca", context)
    return Flops(
        linear=2 * (floating + packed),
        core_csa=row * sum(window + min(config.index_topk, entries) for entries in csa),
        core_hca=row * sum(window + entries for entries in hca),
        core_window=row * window * len(config.window_layers),
        indexer=2 * config.index_n_heads * config.index_head_dim * sum(csa),
        float_linear=2 * floating,
    )


def v32_kv_bytes(context: int) -> int:
    """DeepSeek-V3.2: 61 layers of a 656-byte MLA row and a 132-byte FP8 indexer key per token."""
    return 61 * context * (656 + 132)


def v32_flops(context: int) -> Flops:
    """DeepSeek-V3.2 at the same context."""
    d, layers, head = 7168, 61, 129280 * 7168
    attention = d * 1536 + 1536 * 128 * 192 + d * 576 + 512 * 128 * 256 + 128 * 128 * d
    floating = head + 58 * d * 256 + layers * d * 64
    packed = layers * (attention + 1536 * 8192 + d * 128) + 3 * 3 * d * 18432 + 58 * 9 * 3 * d * 2048
    return Flops(
        linear=2 * (floating + packed),
        core_csa=layers * 2 * 128 * (576 + 512) * min(context, 2048),
        core_hca=0,
        core_window=0,
        indexer=layers * 2 * 64 * 128 * context,
        float_linear=2 * floating,
        indexer_weight=1.0,
    )


def gqa8_kv_bytes(config: Config, context: int) -> int:
    """A bf16 grouped-query model of the same depth: 8 heads of 128, keys and values, 4096 B per layer."""
    return config.num_hidden_layers * context * 2 * 8 * 128 * 2


def footprint(config: Config, context: int, kv_format: str = "fp8+fp4") -> dict[str, Any]:
    """Everything above as one JSON-ready dict: what `v4npu inspect --json` prints.

    Args:
        config: any V4 configuration.
        context: tokens already in the cache, at least 1.
        kv_format: "fp8+fp4" (V4's), "fp8" (FP8 indexer keys) or "bf16".

    Raises:
        ValueError: context below 1 or an unknown kv_format.
    """
    kv, work, old = kv_bytes(config, context, kv_format), flops(config, context), v32_flops(context)
    return {
        "context": context,
        "kv_format": kv_format,
        "layers": {
            "window": len(config.window_layers),
            "csa": len(config.csa_layers),
            "hca": len(config.hca_layers),
            "mtp": config.num_nextn_predict_layers,
        },
        "parameters": asdict(parameters(config)),
        "kv_bytes": {**asdict(kv), "total": kv.total},
        "kv_bytes_by_format": {name: kv_bytes(config, context, name).total for name in KV_FORMATS},
        "kv_ratio": {
            "v3.2": kv.total / v32_kv_bytes(context),
            "gqa8": kv.total / gqa8_kv_bytes(config, context),
        },
        "flops": _flops_dict(work),
        "flops_ratio": {
            "raw": work.raw / old.raw,
            "fp8_equivalent": work.fp8_equivalent / old.fp8_equivalent,
            "fp8_equivalent_strict": work.fp8_equivalent_strict / old.fp8_equivalent_strict,
        },
        "v3.2": {"kv_bytes": {"total": v32_kv_bytes(context)}, "flops": _flops_dict(old)},
    }


def _flops_dict(work: Flops) -> dict[str, float]:
    names = ("linear", "core_csa", "core_hca", "core_window", "indexer", "raw")
    return {name: getattr(work, name) for name in (*names, "fp8_equivalent", "fp8_equivalent_strict")}


def _entries(config: Config, kind: str, context: int) -> list[int]:
    """Compressed entries of each main layer of this kind."""
    layers = range(config.num_hidden_layers)
    return [context // config.compress_ratios[i] for i in layers if config.layer_kind(i) == kind]


def _positive(context: int) -> None:
    if not isinstance(context, int) or context < 1:
        raise ValueError(f"v4npu.footprint: context must be an integer of at least 1, got {context!r}")
