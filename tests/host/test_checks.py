"""check_<op>(): a wrong call is a ValueError that names operator and argument, before any kernel.

Every operator has one valid call on tiny tensors; each row of WRONG changes one argument of it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from v4npu import _C

F32, BF16, U8, I8, I32, I64 = torch.float32, torch.bfloat16, torch.uint8, torch.int8, torch.int32, torch.int64
E4M3, E8M0 = torch.float8_e4m3fn, torch.float8_e8m0fnu


def t(*shape: int, dtype: torch.dtype = F32) -> torch.Tensor:
    return (
        torch.zeros(shape, dtype=torch.uint8).view(dtype) if dtype in (E4M3, E8M0) else torch.zeros(shape, dtype=dtype)
    )


def i32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=I32)


SEQS = {"cu_seqlens_q": torch.tensor([0, 2, 3], dtype=I32), "start_pos": t(2, dtype=I32)}
POSITIONS = {"positions": t(3, dtype=I64), "freqs": t(2)}
PAGES = {"block_table": t(2, 2, dtype=I32)}
ATTENTION = {"attn_sink": t(2), "softmax_scale": 1.0, "window": 4, "rope_dim": 4, "official": False}
QUERY = {"q": t(3, 2, 8), "window_kv": t(5, 4, 8), "window_table": t(2, 2, dtype=I32)}
ENTRIES = {"compressed_kv": t(2, 4, 8), **PAGES}
INDEXER = {"q": t(3, 2, 8), "weights": t(3, 2), "keys": t(2, 4, 8), **PAGES, **SEQS, "ratio": 4}

VALID: dict[str, dict[str, Any]] = {
    "rms_norm": {"x": t(3, 8), "weight": t(8), "eps": 1e-6},
    "rope": {"x": t(3, 2, 8), **POSITIONS, "inverse": False},
    "hadamard": {"x": t(3, 8)},
    "act_quant": {"x": t(3, 8), "block_size": 4},
    "fp4_act_quant": {"x": t(3, 8), "block_size": 4},
    "linear": {"x": t(3, 8), "weight": t(5, 8), "out_dtype": BF16},
    "fp8_linear": {"x": t(3, 8, dtype=E4M3), "x_scale": t(3, 1, dtype=E8M0), "weight": t(130, 8, dtype=E4M3),
                   "weight_scale": t(2, 1, dtype=E8M0), "out_dtype": BF16},
    "fp4_linear": {"x": t(3, 32), "x_scale": None, "weight": t(5, 16, dtype=I8),
                   "weight_scale": t(5, 1, dtype=E8M0),
                   "out_dtype": F32},
    "grouped_linear": {"x": t(3, 2, 8), "weight": t(6, 8, dtype=E4M3), "weight_scale": t(1, 1, dtype=E8M0)},
    "hc_pre": {"streams": t(3, 2, 8), "fn": t(8, 16), "scale": t(3), "base": t(8), "norm_eps": 1e-6,
               "hc_eps": 1e-6,
               "sinkhorn_iters": 2},
    "hc_post": {"x": t(3, 8), "streams": t(3, 2, 8), "post": t(3, 2), "comb": t(3, 2, 2)},
    "hc_head": {"streams": t(3, 2, 8), "fn": t(2, 16), "scale": t(1), "base": t(2), "norm_eps": 1e-6,
                "hc_eps": 1e-6},
    "qkv_prepare": {"q": t(3, 2, 8), "kv": t(3, 8), "kv_norm_weight": t(8), **POSITIONS, "eps": 1e-6,
                    "official": False, "window_cache": t(2, 5, 8), "slot_mapping": t(3, dtype=I64)},
    "compressor": {"kv": t(3, 16), "score": t(3, 16), "ape": t(4, 16), "norm_weight": t(8),
                   "freqs": t(2), **SEQS,
                   "state": t(4, 2, 10, 16), "state_slots": i32(0, 1), "ratio": 4, "overlap": True,
                   "eps": 1e-6, "quant": "fp8", "num_entries": 0, "out_dtype": BF16,
                   "cache": t(2, 5, 20, dtype=U8), "slot_mapping": t(0, dtype=I64)},
    "indexer_query": {"q": t(3, 2, 8), **POSITIONS, "official": True},
    "indexer_scores": {**INDEXER, "official": False},
    "indexer_topk": {**INDEXER, "topk": 3, "official": False},
    "window_attention": {**QUERY, **SEQS, **ATTENTION},
    "csa_attention": {**QUERY, **ENTRIES, "topk_indices": t(3, 2, dtype=I32), **SEQS, **ATTENTION,
                      **POSITIONS},
    "hca_attention": {**QUERY, **ENTRIES, **SEQS, **ATTENTION, "ratio": 4},
    "gate": {"x": t(3, 8), "weight": t(4, 8), "bias": t(4), "topk": 2, "route_scale": 1.0},
    "hash_gate": {"x": t(3, 8), "weight": t(4, 8), "tid2eid": t(9, 2, dtype=I64),
                  "input_ids": t(3, dtype=I64),
                  "route_scale": 1.0},
    "swiglu": {"gate": t(3, 8), "up": t(3, 8), "weights": t(3), "limit": 10.0},
    "moe_experts": {"x": t(3, 32), "topk_indices": t(3, 2, dtype=I32), "topk_weights": t(3, 2),
                    "w1": t(4, 64, 16, dtype=I8), "w1_scale": t(4, 64, 1, dtype=E8M0),
                    "w3": t(4, 64, 32, dtype=E4M3), "w3_scale": t(4, 1, 1, dtype=E8M0),
                    "w2": t(4, 32, 64), "w2_scale": None, "swiglu_limit": 10.0, "official": True, "shared": t(3, 32)},
}  # fmt: skip

# operator, argument, wrong value, what the message says after "v4npu.<op>: "
WRONG: list[tuple[str, str, Any, str]] = [
    ("rms_norm", "weight", t(7), "weight must be floating point [n], got float32 [7] (n = 8)"),
    ("rms_norm", "x", t(3, 8, dtype=I32), "x must be floating point [..., n], got int32 [3, 8]"),
    ("rms_norm", "eps", -1.0, "eps must be at least 0, got -1"),
    ("rope", "positions", t(3, dtype=I32), "positions must be int64 [num_tokens], got int32 [3]"),
    ("rope", "positions", t(4, dtype=I64), "x must be [num_tokens, ..., head_dim] with a position per token"),
    ("rope", "freqs", t(5), "freqs must be float32 [rope_dim/2] with rope_dim at most head_dim, got float32"),
    ("hadamard", "x", t(3, 6), "x must be [..., n] with n a power of two, got float32 [3, 6]"),
    ("act_quant", "block_size", 0, "block_size must be positive, got 0"),
    ("act_quant", "x", t(), "x must be floating point [..., n], got float32 []"),
    ("fp4_act_quant", "x", t(3, 7), "x must be [..., n] with n even"),
    ("linear", "weight", t(5, 9), "weight must be floating point [num_rows, k], got float32 [5, 9] (k = 8)"),
    ("linear", "out_dtype", I32, "out_dtype must be floating point, got int32"),
    ("fp8_linear", "x_scale", None, "x must be floating point [num_tokens, k], got float8_e4m3fn [3, 8]"),
    ("fp8_linear", "weight_scale", t(1, 1, dtype=E8M0), "weight_scale must be float8_e8m0fnu [ceil(num_rows"),
    ("fp8_linear", "out_dtype", I32, "out_dtype must be floating point, got int32"),
    ("fp4_linear", "x", t(3, 48), "x must be [num_tokens, k] with k a multiple of 32, got float32 [3, 48]"),
    ("fp4_linear", "weight", t(5, 32, dtype=I8), "weight must be int8 [num_rows, k/2], got int8 [5, 32] (k/"),
    ("grouped_linear", "weight", t(5, 8, dtype=E4M3), "weight must be [groups*n, k] with whole groups"),
    ("grouped_linear", "weight_scale", None, "weight_scale must be given with a quantised weight, got None"),
    ("hc_pre", "fn", t(7, 16), "fn must be float32 or float64 [(2+hc_mult)*hc_mult, hc_mult*hidden_size], g"),
    ("hc_pre", "sinkhorn_iters", 0, "sinkhorn_iters must be positive, got 0"),
    ("hc_pre", "sinkhorn_iters", 2**32 + 20, "sinkhorn_iters must be at most 1048576, got 4294967316"),
    ("hc_post", "comb", t(3, 2, 3), "comb must be float32 or float64 [num_tokens, hc_mult, hc_mult], got"),
    ("hc_head", "scale", t(3), "scale must be float32 or float64 [1], got float32 [3]"),
    ("qkv_prepare", "kv", t(2, 8), "kv must be floating point [num_tokens, head_dim], got float32 [2, 8] (n"),
    ("qkv_prepare", "slot_mapping", None, "slot_mapping must be given with window_cache, got None"),
    ("qkv_prepare", "window_cache", t(2, 5, 20, dtype=U8), "window_cache must be floating point: packed rows are"),
    ("qkv_prepare", "window_cache", t(2, 8, 5).mT, "window_cache must be contiguous within a page, got strides 1, 5"),
    ("compressor", "state", t(2, 2, 10, 8), "state must be float32 or float64 [num_states, 2, ring, 2*head_dim], got"),
    ("compressor", "state", t(2, 2, 7, 16), "state must be a ring of at least ratio rows, 2*ratio with overlap, got 7"),
    ("compressor", "state_slots", None, "state_slots must be given with state, got None"),
    ("compressor", "cache", t(2, 5, 21, dtype=U8), "cache must be uint8 [num_blocks, block_size, row_bytes], got"),
    ("compressor", "slot_mapping", t(1, dtype=I64), "slot_mapping must be int64 [num_entries], got int64 [1] (num_e"),
    ("compressor", "quant", "fp5", 'quant must be "none", "fp8", "hadamard_fp4" or "hadamard_fp8", got "fp5"'),
    ("compressor", "ratio", 0, "ratio must be positive, got 0"),
    ("compressor", "num_entries", -1, "num_entries must be between 0 and num_tokens, got -1"),
    ("compressor", "cu_seqlens_q", t(2, dtype=I32), "cu_seqlens_q must be int32 [num_seqs+1], got int32 [2]"),
    ("indexer_query", "q", t(3, 2, 12), "q must be [num_tokens, index_n_heads, index_head_dim] with a power"),
    ("indexer_scores", "block_table", t(3, 2, dtype=I32), "block_table must be int32 [num_seqs, max_blocks]"),
    ("indexer_scores", "keys", t(2, 4, 7, dtype=U8), "keys must be packed rows of 5 (FP4) or 12 (FP8) bytes, got"),
    ("indexer_topk", "keys", t(2, 4, 12, dtype=U8), "keys must be floating point: packed rows are for bfloat16, got"),
    ("indexer_topk", "topk", 0, "topk must be positive, got 0"),
    ("indexer_topk", "ratio", -4, "ratio must be positive, got -4"),
    ("window_attention", "window", 0, "window must be positive, got 0"),
    ("window_attention", "window", 2**20 + 1, "window must be at most 1048576, got 1048577"),
    ("window_attention", "attn_sink", t(3), "attn_sink must be float32 or float64 [num_heads], got float32"),
    ("window_attention", "freqs", t(4), "freqs must be None without positions, got float32 [4]"),
    ("window_attention", "start_pos", t(2, dtype=I64), "start_pos must be int32 [num_seqs], got int64 [2]"),
    ("csa_attention", "topk_indices", t(8, 512, dtype=I64),
     "topk_indices must be int32 [num_tokens, topk], got int64 [8, 512]"),
    ("window_attention", "window_kv", t(2, 0, 8), "window_kv's block_size must be positive, got 0"),
    ("window_attention", "rope_dim", 3, "rope_dim must be even, 0 to head_dim, got 3"),
    ("csa_attention", "window_table", t(3, 2, dtype=I32), "window_table must be int32 [num_seqs, max_window_blocks]"),
    ("csa_attention", "compressed_kv", t(2, 4, 6), "compressed_kv must be floating point [num_blocks, block"),
    ("hca_attention", "ratio", 0, "ratio must be positive, got 0"),
    ("csa_attention", "positions", t(2, dtype=I64), "positions must be int64 [num_tokens], got int64 [2] (num_tokens"),
    ("hca_attention", "q", t(3, 8), "q must be floating point [num_tokens, num_heads, head_dim], got float3"),
    ("gate", "topk", 5, "topk must be between 1 and num_experts, got 5"),
    ("gate", "bias", t(4, dtype=BF16), "bias must be float32 or float64 [num_experts], got bfloat16 [4]"),
    ("hash_gate", "tid2eid", t(9, 5, dtype=I64), "tid2eid must be [vocab_size, topk] with topk between 1 an"),
    ("hash_gate", "input_ids", t(3, dtype=I32), "input_ids must be int64 [num_tokens], got int32 [3]"),
    ("swiglu", "up", t(3, 7), "up must be floating point [num_tokens, intermediate_size], got float32 [3, 7"),
    *(("swiglu", "limit", limit, f"limit must be 0 (no clamp), infinite or a normal float32 above 0, got {got}")
      for limit, got in ((-1.0, "-1"), (1e-40, "1e-40"), (1e39, "1e+39"), (float("nan"), "nan"))),
    ("moe_experts", "swiglu_limit", 1e-40, "swiglu_limit must be 0 (no clamp), infinite or a normal float32 above 0"),
    ("moe_experts", "topk_indices", t(3, 1, dtype=I32).expand(3, 2**30), "topk_indices must be at most 2147483647 c"),
    ("moe_experts", "shared", t(3, 31), "shared must be floating point [num_tokens, hidden_size], got float32 [3, 31]"),
    ("moe_experts", "shared", t(3, 32, dtype=BF16), "shared must be of the dtype of x, got bfloat16 [3, 32]"),
    ("moe_experts", "w1_scale", None, "w1_scale must be given with a quantised weight, got None"),
    ("moe_experts", "w2_scale", t(1, dtype=E8M0), "w2_scale must be None with a floating point weight, got"),
    ("moe_experts", "w3", t(4, 63, 32, dtype=E4M3), "w3 must be float8_e4m3fn [num_experts, intermediate_si"),
    ("moe_experts", "w1", t(4, 64, 16, dtype=I64), "w1 must be floating point, float8_e4m3fn or int8 (two F"),
    # What is written lies nowhere twice.
    ("qkv_prepare", "window_cache", t(1, 5, 8).expand(2, 5, 8), "window_cache must be free of overlap, as it is writ"),
    ("compressor", "state", t(1, 2, 10, 16).expand(4, -1, -1, -1), "state must be free of overlap, as it is written"),
    ("compressor", "cache", t(140, dtype=U8).as_strided((2, 5, 20), (40, 20, 1)),
     "cache must be free of overlap, as it is written, got 2 blocks of 100 elements, 40 apart"),
]  # fmt: skip
# What the values of index tensors on the CPU show besides.
WRONG_VALUES: list[tuple[str, str, Any, str]] = [
    ("compressor", "cu_seqlens_q", i32(1, 2, 3), "cu_seqlens_q must be rising from 0 to num_tokens, got 1 at 0 (num"),
    ("hca_attention", "cu_seqlens_q", i32(0, 4, 3), "cu_seqlens_q must be rising from 0 to num_tokens, got 3 at 2 (n"),
    ("indexer_topk", "cu_seqlens_q", i32(0, 2, 4), "cu_seqlens_q must be rising from 0 to num_tokens, got 4 at 2 (n"),
    ("indexer_scores", "start_pos", i32(0, -5), "start_pos must be at least 0, got -5 at 1"),
    ("compressor", "state_slots", i32(0, 4), "state_slots must be within the states, got 4"),
    ("compressor", "state_slots", i32(3, 3), "state_slots must be another for each sequence with tokens, got 3 twice"),
    ("compressor", "num_entries", 1, "num_entries must be 0 for these sequences, got 1"),
    ("qkv_prepare", "slot_mapping", torch.tensor([0, -1, 10]), "slot_mapping must be below the 10 rows of window_c"),
    ("window_attention", "start_pos", i32(7, 0),
     "window_table must be with a block of window_kv for row 8 of sequence 0, got 2 blocks of 4 rows"),
    ("window_attention", "window_table", i32(0, 0, -1, 0).view(2, 2),
     "window_table must be with a block of window_kv for row 0 of sequence 1, got -1 of 5"),
    ("hca_attention", "start_pos", i32(0, 2**31 - 1), "window_table must be with a block of window_kv for row 214748"),
    ("csa_attention", "topk_indices", i32(-1, 7, -9, 8, 0, 0).view(3, 2),
     "topk_indices must be below the 8 rows of block_table, got 8"),
    ("indexer_topk", "start_pos", i32(34, 0), "block_table must be with a block of keys for row 8 of sequence 0, got"),
]  # fmt: skip


def test_every_op_has_a_valid_call_and_wrong_ones() -> None:
    assert list(VALID) == _C.op_names()
    assert {row[0] for row in WRONG} == set(VALID)


@pytest.mark.parametrize("op", VALID)
def test_the_valid_call_passes(op: str) -> None:
    assert getattr(torch.ops.v4npu_check, op)(**VALID[op]) is None


@pytest.mark.parametrize(
    ("op", "arg", "value", "message"), WRONG + WRONG_VALUES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_wrong_call_is_refused_by_name(op: str, arg: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        getattr(torch.ops.v4npu, op)(**{**VALID[op], arg: value})
    assert str(caught.value).startswith(f"v4npu.{op}: {message}")


@pytest.mark.parametrize("op", VALID)
def test_no_tensor_is_refused_by_name(op: str) -> None:
    schema = getattr(torch.ops.v4npu, op).default._schema
    for arg in (a.name for a in schema.arguments if str(a.type) == "Tensor"):
        with pytest.raises(ValueError, match=rf"v4npu\.{op}: {arg} must be .* got None"):
            getattr(torch.ops.v4npu, op)(**{**VALID[op], arg: None})


@pytest.mark.parametrize("op", VALID)
def test_zero_tokens_are_valid(op: str) -> None:
    """Every tensor axis of 3 in VALID is num_tokens, apart from the three scales of hc_pre."""
    few = {
        name: v * 0
        if name == "cu_seqlens_q"
        else v[:0]
        if isinstance(v, torch.Tensor) and v.dim() and v.shape[0] == 3 and name != "scale"
        else v
        for name, v in VALID[op].items()
    }
    assert getattr(torch.ops.v4npu_check, op)(**few) is None


@pytest.mark.parametrize("op", VALID)
def test_tensors_of_another_layout_or_device_are_refused_by_name(op: str) -> None:
    names = [name for name, v in VALID[op].items() if isinstance(v, torch.Tensor)]
    for name in names:
        value = VALID[op][name]
        if value.dtype not in (E4M3, E8M0):  # torch has no sparse ones
            with pytest.raises(ValueError, match=rf"v4npu\.{op}: {name} must be strided"):
                getattr(torch.ops.v4npu, op)(**{**VALID[op], name: value.to_sparse()})
        if len(names) > 1:
            with pytest.raises(ValueError, match=rf"v4npu\.{op}: \w+ must be on (cpu|meta) like \w+, got (cpu|meta)"):
                getattr(torch.ops.v4npu, op)(**{**VALID[op], name: value.to("meta")})


@pytest.mark.parametrize("op", VALID)
def test_a_storage_smaller_than_its_tensor_is_refused_by_name(op: str) -> None:
    for name, value in VALID[op].items():
        if isinstance(value, torch.Tensor) and value.numel():
            short = value.clone()
            short.untyped_storage().resize_(short.nbytes - 1)
            with pytest.raises(ValueError, match=rf"^v4npu\.{op}: {name} must be all in its storage, got .* bytes$"):
                getattr(torch.ops.v4npu, op)(**{**VALID[op], name: short})


def test_a_check_runs_before_a_write() -> None:
    cache = torch.full((2, 5, 8), 7.0)
    with pytest.raises(ValueError, match="slot_mapping"):
        torch.ops.v4npu.qkv_prepare(**{**VALID["qkv_prepare"], "window_cache": cache, "slot_mapping": t(2, dtype=I64)})
    assert bool((cache == 7).all())
