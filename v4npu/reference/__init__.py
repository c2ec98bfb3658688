"""Every operator in plain torch: the oracle of the tests and the kernel of any device that has none of its own.

Differentiable, and computed in float64 when its inputs are float64.
"""

from __future__ import annotations

from v4npu.reference.attention import csa_attention, hca_attention, window_attention
from v4npu.reference.compressor import compressor
from v4npu.reference.experts import moe_experts, swiglu
from v4npu.reference.formats import act_quant, fp4_act_quant
from v4npu.reference.gate import gate, hash_gate
from v4npu.reference.hadamard import hadamard
from v4npu.reference.hyper_connection import hc_head, hc_post, hc_pre
from v4npu.reference.indexer import indexer_query, indexer_scores, indexer_topk
from v4npu.reference.linear import fp4_linear, fp8_linear, grouped_linear, linear
from v4npu.reference.qkv_prepare import qkv_prepare
from v4npu.reference.rms_norm import rms_norm
from v4npu.reference.rope import rope

__all__ = [
    "act_quant",
    "compressor",
    "csa_attention",
    "fp4_act_quant",
    "fp4_linear",
    "fp8_linear",
    "gate",
    "grouped_linear",
    "hadamard",
    "hash_gate",
    "hc_head",
    "hc_post",
    "hc_pre",
    "hca_attention",
    "indexer_query",
    "indexer_scores",
    "indexer_topk",
    "linear",
    "moe_experts",
    "qkv_prepare",
    "rms_norm",
    "rope",
    "swiglu",
    "window_attention",
]
