"""The operators of V4, typed: each calls `torch.ops.v4npu.<op>`, which torch dispatches by the tensors' device.

T is the number of packed tokens of all sequences of a call, B the number of sequences. `cu_seqlens_q` int32 [B + 1]
holds each sequence's token offsets in the call, `start_pos` int32 [B] how many tokens it had before. Caches are pages
[num_blocks, block_size, D], or uint8 [num_blocks, block_size, row bytes] of packed rows with bfloat16 activations
(csrc/include/v4npu/row_format.h); a block table int32 [B, max_blocks] says where row i of a sequence lies: row
i % block_size of page table[b, i // block_size]. A slot is page * block_size + row; -1 is not stored, and the slots
of a call must be distinct. What is written, pages or states, may lie apart, not over each other. `official` asks for
every rounding point of DeepSeek's code; without it nothing is quantised. Every operator is differentiable, backward and
forward (in the plain-torch reference), but for act_quant (backward only), fp4_act_quant and indexer_topk, whose results
are codes and indices; every one accepts zero tokens, propagates NaN, and raises ValueError naming the argument for a
wrong shape, dtype or parameter, of meta and fake tensors too. The step-by-step contracts are
csrc/include/v4npu/ops/<op>.h; docs/v4.md says where in the model each stands.
"""

from __future__ import annotations

import torch
from torch import Tensor

_op = torch.ops.v4npu


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dim, in x's dtype; weight [n] or None."""
    return _op.rms_norm(x, weight, eps)


def rope(x: Tensor, positions: Tensor, freqs: Tensor, inverse: bool = False) -> Tensor:
    """Rotates interleaved pairs of the last R dims of x [T, ..., D] by positions * freqs (back with `inverse`).

    positions int64 [T]; freqs float32 [R/2]. The angle is rounded once in float32.
    """
    return _op.rope(x, positions, freqs, inverse)


def hadamard(x: Tensor) -> Tensor:
    """Orthonormal Walsh-Hadamard transform (Sylvester order) of the last dim, a power of two."""
    return _op.hadamard(x)


def act_quant(x: Tensor, block_size: int = 128) -> tuple[Tensor, Tensor]:
    """FP8 quantiser: x [..., n] -> float8_e4m3fn [..., n], float8_e8m0fnu scales [..., ceil(n / block_size)].

    The scale is the power of two at or above amax / 448, amax floored at 1e-4; round to nearest even.
    """
    return _op.act_quant(x, block_size)


def fp4_act_quant(x: Tensor, block_size: int = 32) -> tuple[Tensor, Tensor]:
    """FP4 quantiser: x [..., n] -> packed e2m1 int8 [..., n / 2] (low nibble = even element) and e8m0 scales.

    The scale is the power of two at or above amax / 6, amax floored at 6 * 2^-126; ties to the even code. e2m1
    has no NaN: the scale of its block is NaN.
    """
    return _op.fp4_act_quant(x, block_size)


def linear(x: Tensor, weight: Tensor, out_dtype: torch.dtype) -> Tensor:
    """x W^T: x [T, K], weight [N, K], both floating point -> out_dtype [T, N].

    Widens exactly, accumulates in float32 (float64 when an operand is), rounds once; subnormal bfloat16 values may
    count as zero. On the CPU a row has the same bits in every batch and on any number of threads, which torch's linear
    does not promise.
    """
    return _op.linear(x, weight, out_dtype)


def fp8_linear(
    x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """x W^T with W e4m3 [N, K] and 128x128 e8m0 scales; x [..., K] is e4m3 with x_scale, or float without.

    Accumulates in float32 (float64 when out_dtype is) and rounds once to out_dtype; without x_scale x and W times its
    scales are rounded to out_dtype before.
    """
    return _op.fp8_linear(x, x_scale, weight, weight_scale, out_dtype)


def fp4_linear(
    x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """As fp8_linear, with W packed e2m1 int8 [N, K / 2] and e8m0 scales [N, K / 32]."""
    return _op.fp4_linear(x, x_scale, weight, weight_scale, out_dtype)


def grouped_linear(x: Tensor, weight: Tensor, weight_scale: Tensor | None) -> Tensor:
    """Per group j: x[:, j] W_j^T. x [T, g, K], weight [g N, K] float, or e4m3 with scales -> [T, g, N]."""
    return _op.grouped_linear(x, weight, weight_scale)


def hc_pre(
    streams: Tensor,
    fn: Tensor,
    scale: Tensor,
    base: Tensor,
    norm_eps: float,
    hc_eps: float,
    sinkhorn_iters: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """mHC before a sublayer: its input y [T, d] and the mixes post [T, m], comb [T, m, m] (float32).

    streams [T, m, d]; fn float32 [(2 + m) m, m d], scale [3], base [(2 + m) m].
    """
    return _op.hc_pre(streams, fn, scale, base, norm_eps, hc_eps, sinkhorn_iters)


def hc_post(x: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """mHC after a sublayer: out_k = post_k x + sum_j comb[j, k] streams_j -> [T, m, d]."""
    return _op.hc_post(x, streams, post, comb)


def hc_head(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, hc_eps: float) -> Tensor:
    """Collapse of the streams [T, m, d] -> [T, d]; fn [m, m d], scale [1], base [m]."""
    return _op.hc_head(streams, fn, scale, base, norm_eps, hc_eps)


def qkv_prepare(
    q: Tensor,
    kv: Tensor,
    kv_norm_weight: Tensor,
    positions: Tensor,
    freqs: Tensor,
    eps: float,
    official: bool,
    window_cache: Tensor | None = None,
    slot_mapping: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Head norm and RoPE of q [T, H, D]; norm, RoPE and (official) FP8 rounding of kv [T, D].

    With window_cache (pages) and slot_mapping int64 [T], kv rows are stored there too.
    """
    return _op.qkv_prepare(q, kv, kv_norm_weight, positions, freqs, eps, official, window_cache, slot_mapping)


def compressor(
    kv: Tensor, score: Tensor, ape: Tensor, norm_weight: Tensor, freqs: Tensor, cu_seqlens_q: Tensor, start_pos: Tensor,
    state: Tensor | None, state_slots: Tensor | None, ratio: int, overlap: bool, eps: float, quant: str,
    num_entries: int, out_dtype: torch.dtype, cache: Tensor | None = None, slot_mapping: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Pools every `ratio` tokens into an entry, then norm, RoPE at the window's first token, and `quant`.

    Args:
        kv, score: float32 [T, coff D]; coff is 2 with overlap, where the first half feeds the next window's entry.
        ape: float32 [ratio, coff D], added to score by position in the window.
        state: float32 [num_states, 2, ring, coff D], kv and score rows of the open windows, updated in place: position
            p is row p % ring, ring >= coff ratio. None for whole sequences from position 0.
        state_slots: int32 [B], each sequence's state.
        quant: "none", "fp8" (blocks of 64, all but the rotated dims), "hadamard_fp4" (blocks of 32) or "hadamard_fp8"
            (a scale per entry).
        num_entries: entries completed in this call by all sequences: sum (start + length) // ratio - start // ratio.
        cache, slot_mapping: pages and int64 [num_entries]: the entries are stored there too.

    Returns:
        out_dtype [num_entries, D], sequence after sequence.
    """
    rows = (kv, score, ape, norm_weight, freqs, cu_seqlens_q, start_pos, state, state_slots)
    return _op.compressor(*rows, ratio, overlap, eps, quant, num_entries, out_dtype, cache, slot_mapping)


def indexer_query(q: Tensor, positions: Tensor, freqs: Tensor, official: bool) -> Tensor:
    """RoPE of the indexer's queries [T, Hi, Di]; official numerics add the Hadamard transform and FP4."""
    return _op.indexer_query(q, positions, freqs, official)


def indexer_scores(
    q: Tensor,
    weights: Tensor,
    keys: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    ratio: int,
    official: bool,
) -> Tensor:
    """sum_h weights[t, h] relu(q[t, h] . keys[s]) -> [T, max_blocks block_size]; -inf unless s < (t + 1) // ratio.

    keys: pages of Di values (packed: FP4, or FP8 with a float32 scale); weights [T, Hi].
    """
    return _op.indexer_scores(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, official)


def indexer_topk(
    q: Tensor,
    weights: Tensor,
    keys: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    start_pos: Tensor,
    ratio: int,
    topk: int,
    official: bool,
) -> Tensor:
    """The topk best entries of each query, int32 [T, topk]: best first, ties to the smaller index, -1 padded.

    Equals a top-k of indexer_scores, without ever holding [T, entries].
    """
    return _op.indexer_topk(q, weights, keys, block_table, cu_seqlens_q, start_pos, ratio, topk, official)


def window_attention(
    q: Tensor, window_kv: Tensor, window_table: Tensor, cu_seqlens_q: Tensor, start_pos: Tensor,
    attn_sink: Tensor | None, softmax_scale: float, window: int, rope_dim: int, official: bool,
    positions: Tensor | None = None, freqs: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Each query attends to its last `window` positions. q [T, H, D]; window_kv: pages of D values, row i is position
    i; attn_sink float32 [H] joins the denominator only; rope_dim: of a packed row. With positions int64 [T] and freqs
    the result is turned back: rope(..., inverse=True), bit for bit."""
    where = (cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, rope_dim, official, positions, freqs)
    return _op.window_attention(q, window_kv, window_table, *where)


def csa_attention(
    q: Tensor, window_kv: Tensor, window_table: Tensor, compressed_kv: Tensor, block_table: Tensor,
    topk_indices: Tensor, cu_seqlens_q: Tensor, start_pos: Tensor, attn_sink: Tensor | None,
    softmax_scale: float, window: int, rope_dim: int, official: bool,
    positions: Tensor | None = None, freqs: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """window_attention plus the entries named by topk_indices int32 [T, topk] (-1 = unused), in that order.

    The picks of a query must be distinct. compressed_kv: pages of D values, by block_table.
    """
    where = (cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, rope_dim, official, positions, freqs)
    return _op.csa_attention(q, window_kv, window_table, compressed_kv, block_table, topk_indices, *where)


def hca_attention(
    q: Tensor, window_kv: Tensor, window_table: Tensor, compressed_kv: Tensor, block_table: Tensor,
    cu_seqlens_q: Tensor, start_pos: Tensor, attn_sink: Tensor | None, softmax_scale: float,
    window: int, ratio: int, rope_dim: int, official: bool,
    positions: Tensor | None = None, freqs: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """window_attention plus every visible entry, s < (t + 1) // ratio."""
    where = (cu_seqlens_q, start_pos, attn_sink, softmax_scale, window, ratio, rope_dim, official, positions, freqs)
    return _op.hca_attention(q, window_kv, window_table, compressed_kv, block_table, *where)


def gate(x: Tensor, weight: Tensor, bias: Tensor | None, topk: int, route_scale: float) -> tuple[Tensor, Tensor]:
    """Learned routing: the top experts of sqrt(softplus(x W^T)) + bias, ties to the smaller index.

    x [T, d], weight [E, d], bias float32 [E] (selection only) -> indices int32 [T, topk], and their scores without
    bias, normalised to route_scale, float32 [T, topk].
    """
    return _op.gate(x, weight, bias, topk, route_scale)


def hash_gate(
    x: Tensor, weight: Tensor, tid2eid: Tensor, input_ids: Tensor, route_scale: float
) -> tuple[Tensor, Tensor]:
    """Routing by table: experts tid2eid[input_ids] (int64 [V, topk], [T]), weighted by their scores."""
    return _op.hash_gate(x, weight, tid2eid, input_ids, route_scale)


def swiglu(gate: Tensor, up: Tensor, weights: Tensor | None, limit: float) -> Tensor:
    """silu(min(gate, limit)) * clamp(up, -limit, limit) * weights in float32 -> gate's dtype [T, I].

    weights float32 [T] or None; limit 0 does not clamp; any other is infinite or a normal float32.
    """
    return _op.swiglu(gate, up, weights, limit)


def moe_experts(
    x: Tensor,
    topk_indices: Tensor,
    topk_weights: Tensor,
    w1: Tensor,
    w1_scale: Tensor | None,
    w3: Tensor,
    w3_scale: Tensor | None,
    w2: Tensor,
    w2_scale: Tensor | None,
    swiglu_limit: float,
    official: bool,
    shared: Tensor | None = None,
) -> Tensor:
    """sum over the picked experts, in ascending order, of w2 swiglu(w1 x, w3 x, weight) -> float32 [T, d].

    With shared [T, d] of x's dtype, what the expert that every token passes made: added last, and rounded to x's dtype.

    x [T, d]; topk_indices int32, topk_weights float32 [T, topk]; w1, w3 [E, I, d], w2 [E, d, I], each float, e4m3 or
    packed FP4 with its scales. The routing weight enters before w2's input is quantised. An index beyond the experts
    is a ValueError on the CPU and in the reference; one named twice by a token counts twice.
    """
    return _op.moe_experts(
        x, topk_indices, topk_weights, w1, w1_scale, w3, w3_scale, w2, w2_scale, swiglu_limit, official, shared
    )
