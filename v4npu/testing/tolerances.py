"""How much further than plain torch in the same dtype a kernel may be from the float64 oracle.

    error(kernel) <= ERROR_RATIO[op] * error(reference in the kernel's dtype) + half an ulp of the largest value

In float32 a whole one, see compare.complaint. Errors are the largest over an output. An operator with a native kernel
has an entry here; so the tests find it.
"""

from __future__ import annotations

ERROR_RATIO: dict[str, float] = {
    "rms_norm": 1.5,
    "rope": 1.5,
    "hadamard": 1.0,  # the same sums in the same order
    "act_quant": 0.0,  # byte for byte
    "fp4_act_quant": 0.0,
    "linear": 1.5,
    "fp8_linear": 1.5,
    "fp4_linear": 1.5,
    "grouped_linear": 1.5,
    "hc_pre": 1.5,
    "hc_post": 1.5,
    "hc_head": 1.5,
    "qkv_prepare": 1.5,
    "compressor": 1.5,
    "indexer_query": 1.5,
    "indexer_scores": 1.5,
    "indexer_topk": 1.5,
    "window_attention": 1.5,
    "csa_attention": 1.5,
    "hca_attention": 1.5,
    "gate": 1.5,
    "hash_gate": 1.5,
    "swiglu": 1.5,
    "moe_experts": 1.5,
}
