"""Published V4 bugs: who reported each, how it is put back in, and which test of the suite does not let it pass.

A source is the report whose symptom the bug has, or a pitfall of docs/v4.md by its number; where a report leaves the
cause open, the one put in here is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import buggy_operators as bug
import buggy_state as state

from v4npu import ops, speculative
from v4npu.cache import Sequence, prefix
from v4npu.cache.pool import Pool
from v4npu.model import attention, model
from v4npu.reference.rope import rope_frequencies

GOLDEN = "tests/model/test_golden.py::"
VALUES = "tests/ops/test_golden_values.py::"
EDGES = "tests/ops/test_edges.py::"
ROUNDING = "tests/ops/test_rounding_points.py::"
HISTORIES = "tests/model/test_histories.py::"
ORACLE = "tests/model/test_transformers.py::"


@dataclass(frozen=True)
class Exhibit:
    """One bug; `caught_by` fails by an assertion while `patch()` is entered."""

    name: str
    source: str
    what: str
    patch: Callable[[], AbstractContextManager[None]]
    caught_by: str


def swap(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[None]]:
    """A patch that puts make(the right function) in its place."""

    @contextmanager
    def patch() -> Iterator[None]:
        right = getattr(owner, name)
        setattr(owner, name, make(right))
        try:
            yield
        finally:
            setattr(owner, name, right)

    return patch


def argument(op: str, place: int, change: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[None]]:
    """A patch that changes one argument of an operator."""

    def make(right: Any) -> Any:
        return lambda *args, **kwargs: right(*args[:place], change(args[place]), *args[place + 1 :], **kwargs)

    return swap(ops, op, make)


def op(name: str, make: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[None]]:
    return swap(ops, name, make)


def short_window_in_decode(right: Any) -> Any:
    """hca_attention whose window is one short when it is called for one token each."""
    return lambda *args: right(*args[:9], args[9] - (len(args[0]) == len(args[6])), *args[10:])


def plain_frequencies(_: Any) -> Any:
    return lambda config, ratio: rope_frequencies(config.qk_rope_head_dim, config.rope_theta)


def learned_gate(_: Any) -> Any:
    return lambda x, weight, table, ids, scale: ops.gate(x, weight, None, table.shape[1], scale)


# fmt: off
EXHIBITS = [
    # -- compressor and visibility
    Exhibit("length 3 modulo 4", "vLLM #55927",
            "A prompt of 3 tokens modulo 4 has its tail pooled as part of an entry.",
            op("compressor", bug.shifted_tail), ORACLE + "test_logits[6]"),
    Exhibit("newest CSA entry hidden", "docs/v4.md 9",
            "An entry is visible from the token after the one completing it.",
            op("indexer_topk", bug.without_the_newest_entry), VALUES + "test_visible_entries[3-entries1]"),
    Exhibit("newest HCA entry hidden", "docs/v4.md 9", "HCA queries see t // 128 entries instead of (t + 1) // 128.",
            op("hca_attention", bug.hca_without_the_newest_entry), ORACLE + "test_logits[18]"),
    Exhibit("no causal mask in the indexer", "HF #45820", "A query of a prefill picks entries of its own future.",
            op("indexer_topk", bug.without_a_causal_mask),
            EDGES + "test_each_query_of_a_prefill_picks_among_its_own_entries"),
    Exhibit("wild picks from NaN", "vLLM #49896", "NaN scores leave arbitrary numbers among the picks.",
            op("indexer_topk", bug.nan_leaves_picks_unset),
            EDGES + "test_nan_scores_name_no_entry_that_is_not_there[False]"),
    Exhibit("stale compressor rows", "docs/v4.md 13", "The first entry of a request pools rows of the request before.",
            op("compressor", bug.stale_overlap_rows), HISTORIES + "test_a_prompt_after_another_request[4]"),
    Exhibit("open window lost between chunks", "chiro2001 README 2.5", "Each chunk starts its window anew.",
            op("compressor", bug.open_window_dropped), ORACLE + "test_chunks_equal_prefill[11]"),
    Exhibit("decode rows not saved", "vllm-ascend-deepseekv4 #76", "One-token calls leave no rows for the next entry.",
            op("compressor", bug.decode_rows_not_saved), ORACLE + "test_decode_equals_prefill[7]"),
    Exhibit("decode attends otherwise", "mlx-lm #1189", "The path for one token sees a shorter window than prefill.",
            op("hca_attention", short_window_in_decode), ORACLE + "test_decode_equals_prefill[18]"),
    Exhibit("padding compressed", "HF #45938", "Left padding is pooled into entries like text.",
            swap(model, "mask_spans", state.padding_is_text),
            "tests/model/test_cache.py::test_padding_changes_nothing[left]"),
    # -- state
    Exhibit("prefix hit without state", "SGLang #30339", "A hit restores entries but neither windows nor open rows.",
            swap(Sequence, "adopt", state.goes_on_at_the_hit),
            HISTORIES + "test_a_prefix_hit_says_what_a_cold_run_says[full]"),
    Exhibit("overlap rows not restored", "ATOM #1417", "Compressor rows before a block boundary are lost on a hit.",
            swap(Sequence, "_copy_overlap", state.overlap_not_restored),
            HISTORIES + "test_a_prefix_hit_says_what_a_cold_run_says[full]"),
    Exhibit("indexer rows not restored", "vllm-ascend #9220",
            "The attention's compressor comes back, the indexer's does not.",
            swap(Sequence, "_copy_overlap", state.index_overlap_not_restored),
            HISTORIES + "test_a_prefix_hit_says_what_a_cold_run_says[full]"),
    Exhibit("entries of refused tokens stay", "vLLM #51009", "After a step back the entries of dropped tokens remain.",
            swap(Sequence, "rollback", state.entries_stay), HISTORIES + "test_other_tokens_after_a_step_back[17]"),
    Exhibit("stale windows after a step back", "SGLang #33656", "A far step back goes on with rows that are gone.",
            swap(Sequence, "restart", state.window_restarts_empty),
            HISTORIES + "test_other_tokens_after_a_step_back[17]"),
    Exhibit("preemption loses state", "llama.cpp #25402", "A preempted request goes on without its pages.",
            swap(Sequence, "release", state.keeps_count), HISTORIES + "test_a_preempted_sequence_goes_on_where_it_was"),
    Exhibit("forks share what they write", "rule of v4npu.cache", "A fork writes to pages that its origin reads.",
            swap(Pool, "writable", state.never_copied), HISTORIES + "test_forks_go_their_own_ways"),
    Exhibit("prefixes shared across salts", "rule of v4npu.cache", "A request hits the prefix of another tenant.",
            swap(prefix, "_root", state.one_root), "tests/model/test_engine.py::test_salt_keeps_prefixes_apart"),
    Exhibit("guesses accepted unchecked", "vllm-ascend #13640", "Whatever the draft layer guesses is kept.",
            swap(speculative._Guesses, "verify", state.accepts_every_guess),
            "tests/model/test_speculative.py::test_greedy_ids_of_a_strict_model[7-2]"),
    # -- rope
    Exhibit("one theta for all layers", "mlx-lm #1189; nano-deepseek-v4 0.2.0",
            "Compressed layers rotate with 10,000, no YaRN.",
            swap(attention, "layer_frequencies", plain_frequencies), GOLDEN + "test_prefill_layer_by_layer"),
    Exhibit("YaRN attention factor", "docs/v4.md 4", "Rotated dims are multiplied by 1.277 as generic YaRN does.",
            op("qkv_prepare", bug.attention_factor), GOLDEN + "test_prefill_layer_by_layer"),
    Exhibit("entry rotated at its last token", "mlx-lm #1189", "Compressed keys are rotated at i r + r - 1.",
            op("compressor", bug.entries_at(lambda i, r: i * r + r - 1)), ORACLE + "test_logits[18]"),
    Exhibit("entry rotated at its index", "mlx-lm #1189", "Compressed keys are rotated at i instead of i r.",
            op("compressor", bug.entries_at(lambda i, r: i)), ORACLE + "test_logits[18]"),
    Exhibit("no inverse rotation", "docs/v4.md 12", "The output keeps the rotation of the values.",
            op("window_attention", lambda right: lambda *args: right(*args[:10])),
            GOLDEN + "test_prefill_layer_by_layer"),
    Exhibit("bf16 sine and cosine", "docs/v4.md 5", "cos and sin are cast to the activations' dtype.",
            op("rope", bug.bf16_sine), ROUNDING + "test_rope[False]"),
    # -- experts and streams
    Exhibit("no clamp in routed experts", "vllm-ascend #14363", "Routed experts do not clamp gate and up.",
            argument("moe_experts", 9, lambda limit: 0.0), ROUNDING + "test_experts"),
    Exhibit("no clamp in the shared expert", "HF #46018", "The shared expert does not clamp gate and up.",
            argument("swiglu", 3, lambda limit: 0.0), ORACLE + "test_logits[9]"),
    Exhibit("clamp with a lower bound", "mlx-vlm #1469", "The gate is clamped from below too.",
            op("swiglu", bug.gate_is_clamped_below), ORACLE + "test_logits[9]"),
    Exhibit("weight after w2", "docs/v4.md 8", "The routing weight multiplies what w2 made of an unweighted FP8 row.",
            op("moe_experts", bug.weight_after_the_experts), ROUNDING + "test_experts"),
    Exhibit("nibbles swapped", "docs/v4.md 10", "The high nibble is read as the even element.",
            op("moe_experts", bug.swapped_nibbles), GOLDEN + "test_prefill_layer_by_layer"),
    Exhibit("ties to the larger index", "vLLM #51782", "Equal scores pick the larger index.",
            op("gate", bug.ties_to_the_larger_expert), VALUES + "test_ties_pick_the_smaller_index"),
    Exhibit("selection bias in the weights", "docs/v4.md 11", "Routing weights include the bias of the selection.",
            op("gate", bug.bias_in_the_weights), ROUNDING + "test_gate_is_float32[gate]"),
    Exhibit("hash layers with the learned gate", "nano-deepseek-v4 0.2.0", "Hash layers route by score, not by table.",
            op("hash_gate", learned_gate), ORACLE + "test_logits[18]"),
    Exhibit("comb not transposed", "docs/v4.md 1", "Streams are mixed over comb's second index.",
            argument("hc_post", 3, lambda comb: comb.mT), VALUES + "test_hc_post_sums_over_the_first_index"),
    Exhibit("post without factor 2", "nano-deepseek-v4 0.2.0", "post is sigmoid alone.",
            op("hc_pre", bug.post_without_two), VALUES + "test_hc_pre"),
    Exhibit("Sinkhorn ends with rows", "docs/v4.md 2", "The last pass normalises rows.",
            op("hc_pre", bug.ends_with_rows), EDGES + "test_hc_pre_ends_with_columns"),
    # -- attention and formats
    Exhibit("no sink", "docs/v4.md 12", "The softmax has no sink in its denominator.",
            argument("hca_attention", 7, lambda sink: None), GOLDEN + "test_prefill_layer_by_layer"),
    Exhibit("no head norm of q", "docs/v4.md 3", "Queries are not normalised per head.",
            op("qkv_prepare", bug.no_head_norm), GOLDEN + "test_prefill_layer_by_layer"),
    Exhibit("KV not rounded", "docs/v4.md 5", "KV rows are kept in bfloat16 in official numerics.",
            argument("qkv_prepare", 6, lambda official: False), ROUNDING + "test_kv_row"),
    Exhibit("FP8 of the rotated dims", "llama.cpp #25202", "FP8 rounding covers the RoPE dims too.",
            op("qkv_prepare", bug.rounded_everywhere), ROUNDING + "test_kv_row"),
    Exhibit("FP8's floor for FP4", "docs/v4.md 7", "The FP4 quantiser floors amax at 1e-4.",
            op("fp4_act_quant", bug.floor_of_fp8),
            "tests/ops/test_quantisers.py::test_every_bfloat16_input[fp4_act_quant-6.0-7.052966104933725e-38-values1--30]"),
    Exhibit("no Hadamard in the indexer", "docs/v4.md 6", "Index queries are rounded without the transform.",
            op("indexer_query", lambda right: lambda q, at, f, official: right(q, at, f, False)),
            "tests/ops/test_rounding_attention.py::test_indexer_query"),
]
# fmt: on
