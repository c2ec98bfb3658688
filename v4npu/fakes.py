"""Output shapes and dtypes of every operator, for FakeTensor, torch.compile and export."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from v4npu.reference.formats import wide_dtype


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def rope(x: Tensor, positions: Tensor, freqs: Tensor, inverse: bool = False) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def hadamard(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _scales(x: Tensor, block_size: int) -> Tensor:
    blocks = (x.shape[-1] + block_size - 1) // block_size
    return x.new_empty((*x.shape[:-1], blocks), dtype=torch.float8_e8m0fnu)


def act_quant(x: Tensor, block_size: int = 128) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), _scales(x, block_size)


def fp4_act_quant(x: Tensor, block_size: int = 32) -> tuple[Tensor, Tensor]:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2), dtype=torch.int8), _scales(x, block_size)


def fp8_linear(x: Tensor, x_scale: Any, weight: Tensor, weight_scale: Tensor, out_dtype: torch.dtype) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=out_dtype)


fp4_linear = fp8_linear


def linear(x: Tensor, weight: Tensor, out_dtype: torch.dtype) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=out_dtype)


def grouped_linear(x: Tensor, weight: Tensor, weight_scale: Tensor | None) -> Tensor:
    tokens, groups, _ = x.shape
    return x.new_empty((tokens, groups, weight.shape[0] // groups))


def hc_pre(streams: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    tokens, m, d = streams.shape
    post = streams.new_empty((tokens, m), dtype=wide_dtype(streams))
    comb = streams.new_empty((tokens, m, m), dtype=wide_dtype(streams))
    return streams.new_empty((tokens, d)), post, comb


def hc_post(x: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    return streams.new_empty(streams.shape)


def hc_head(streams: Tensor, *args: Any) -> Tensor:
    return streams.new_empty((streams.shape[0], streams.shape[2]))


def qkv_prepare(q: Tensor, kv: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), kv.new_empty(kv.shape)


def compressor(kv: Tensor, score: Tensor, ape: Tensor, norm_weight: Tensor, *rest: Any) -> Tensor:
    num_entries, out_dtype = rest[9:11]
    return kv.new_empty((num_entries, norm_weight.shape[0]), dtype=out_dtype)


def indexer_query(q: Tensor, *args: Any) -> Tensor:
    return q.new_empty(q.shape)


def indexer_scores(q: Tensor, weights: Tensor, keys: Tensor, block_table: Tensor, *rest: Any) -> Tensor:
    return q.new_empty((q.shape[0], block_table.shape[1] * keys.shape[1]), dtype=wide_dtype(q))


def indexer_topk(q: Tensor, *rest: Any) -> Tensor:
    topk = rest[-2]
    return q.new_empty((q.shape[0], topk), dtype=torch.int32)


def window_attention(q: Tensor, *args: Any) -> Tensor:
    return q.new_empty(q.shape)


csa_attention = window_attention
hca_attention = window_attention


def gate(x: Tensor, weight: Tensor, bias: Tensor | None, topk: int, route_scale: float) -> tuple[Tensor, Tensor]:
    tokens = x.shape[0]
    return x.new_empty((tokens, topk), dtype=torch.int32), x.new_empty((tokens, topk), dtype=wide_dtype(x))


def hash_gate(
    x: Tensor, weight: Tensor, tid2eid: Tensor, input_ids: Tensor, route_scale: float
) -> tuple[Tensor, Tensor]:
    return gate(x, weight, None, tid2eid.shape[1], route_scale)


def swiglu(gate: Tensor, up: Tensor, weights: Tensor | None, limit: float) -> Tensor:
    return gate.new_empty(gate.shape)


def moe_experts(x: Tensor, *args: Any) -> Tensor:
    alone = len(args) < 11 or args[10] is None  # without what a shared expert made
    return x.new_empty(x.shape, dtype=wide_dtype(x) if alone else x.dtype)
