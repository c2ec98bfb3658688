"""What benchmarks run: every operator at the sizes of a V4 layer, and the least work that a call of it is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from v4npu.model.config import Config, RopeScaling
from v4npu.reference.formats import act_quant, quantise_weight_fp4, quantise_weight_fp8
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.cases import Draw
from v4npu.testing.compare import argument_names
from v4npu.testing.steps import OPS as OVER_PAGES
from v4npu.testing.steps import step

SMALL = Config(
    vocab_size=129_280, hidden_size=1024, num_hidden_layers=8, num_attention_heads=16, q_lora_rank=512, o_groups=4,
    o_lora_rank=256, n_routed_experts=32, num_experts_per_tok=6, moe_intermediate_size=512,
    compress_ratios=(0, 0, 4, 128, 4, 128, 4, 128), index_n_heads=16, index_topk=512, num_hash_layers=0,
    num_nextn_predict_layers=0, max_position_embeddings=65_536, rope_scaling=RopeScaling(16.0, 65_536),
    expert_dtype="fp4",
)  # fmt: skip
CONFIGS = {"small": SMALL, "flash": Config.preset("flash"), "pro": Config.preset("pro")}

TOKENS = (1, 8, 128, 512, 2048)
DRAWN_EXPERTS = 8  # of a layer's routed experts; the others are copies
WORDS = 1024  # of hash_gate's table


def _experts(draw: Draw, count: int, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """FP4 weights [count, rows, cols] of about cols**-0.5, and their scales."""
    which = torch.arange(count) % DRAWN_EXPERTS
    drawn = min(count, DRAWN_EXPERTS)
    codes = draw.integers(256, drawn, rows, cols // 2, dtype=torch.uint8)
    exponents = draw.integers(2, drawn, rows, cols // 32, dtype=torch.uint8) + 125 - cols.bit_length() // 2
    return codes[which].view(torch.int8), exponents[which].view(torch.float8_e8m0fnu)


def arguments(
    op: str, tokens: int, dtype: torch.dtype = torch.bfloat16, config: Config = SMALL, context: int = 0
) -> tuple[Any, ...]:
    """Positional arguments of `op` in a layer of `config`; quantised activations where official numerics have them.

    Args:
        tokens: rows; of operators over pages (OVER_PAGES) the tokens of one sequence, always bfloat16.
        context: tokens before them, for operators over pages.
    """
    if op in OVER_PAGES:
        return step(op, [tokens], [context], config)
    draw = Draw(torch.float32, tokens)
    d, m, heads, dim = config.hidden_size, config.hc_mult, config.num_attention_heads, config.head_dim
    rank, groups, wide = config.q_lora_rank, config.o_groups, config.moe_intermediate_size
    experts, topk = config.n_routed_experts, config.num_experts_per_tok
    positions = torch.arange(tokens) + context
    freqs = rope_frequencies(config.qk_rope_head_dim, config.rope_theta)

    def rows(*shape: int) -> Tensor:
        return draw.normal(tokens, *shape, dtype=dtype)

    def mixes(count: int, scales: int) -> tuple[Tensor, ...]:
        return draw.normal(count, m * d) * (m * d) ** -0.5, draw.normal(scales), draw.normal(count)

    def chosen() -> Tensor:
        return draw.distinct(experts, tokens, topk)

    def small(*shape: int) -> Tensor:
        """Integers whose sums are exact, so that experts are chosen alike whatever the order of a sum."""
        return (draw.integers(5, *shape) - 2).to(dtype)

    def index_q() -> Tensor:
        return rows(config.index_n_heads, config.index_head_dim)

    cases: dict[str, Any] = {
        "rms_norm": lambda: (rows(d), draw.normal(d, dtype=dtype), 1e-6),
        "rope": lambda: (rows(heads, dim), positions, freqs, True),
        "hadamard": lambda: (index_q(),),
        "act_quant": lambda: (rows(d), 128),
        "fp4_act_quant": lambda: (index_q(), 32),
        "linear": lambda: (rows(d), draw.normal(4 * dim, d, dtype=dtype), dtype),
        "fp8_linear": lambda: (
            *act_quant(draw.normal(tokens, rank), 128), *quantise_weight_fp8(draw.normal(heads * dim, rank)), dtype,
        ),
        "fp4_linear": lambda: (
            *act_quant(draw.normal(tokens, d), 128), *quantise_weight_fp4(draw.normal(wide, d)), dtype,
        ),
        "grouped_linear": lambda: (
            rows(groups, heads * dim // groups),
            *quantise_weight_fp8(draw.normal(groups * config.o_lora_rank, heads * dim // groups)),
        ),
        "hc_pre": lambda: (rows(m, d), *mixes((2 + m) * m, 3), 1e-6, 1e-6, config.hc_sinkhorn_iters),
        "hc_post": lambda: (rows(d), rows(m, d), draw.normal(tokens, m), draw.normal(tokens, m, m)),
        "hc_head": lambda: (rows(m, d), *mixes(m, 1), 1e-6, 1e-6),
        "indexer_query": lambda: (index_q(), positions, freqs, True),
        "gate": lambda: (small(tokens, d), small(experts, d), draw.normal(experts), topk, 1.5),
        "hash_gate": lambda: (
            rows(d), draw.normal(experts, d, dtype=dtype), draw.integers(experts, WORDS, topk),
            draw.integers(WORDS, tokens), 1.5,
        ),
        "swiglu": lambda: (rows(wide), rows(wide), None, config.swiglu_limit),
        "moe_experts": lambda: (
            rows(d), chosen(), draw.normal(tokens, topk).abs() / topk, *_experts(draw, experts, wide, d),
            *_experts(draw, experts, wide, d), *_experts(draw, experts, d, wide), config.swiglu_limit, True, rows(d),
        ),
    }  # fmt: skip
    return cases[op]()


# ---- the first tokens of a call alone

TOKEN = {"x", "x_scale", "q", "kv", "score", "positions", "streams", "post", "comb", "topk_indices", "topk_weights",
         "weights", "gate", "up", "input_ids", "shared"}  # fmt: skip
SEQUENCE = {"start_pos", "block_table", "window_table", "state_slots"}


def first(op: str, args: tuple[Any, ...], count: int, shared: Collection[str] = ()) -> tuple[Any, ...]:
    """Arguments of the same call for its first `count` tokens alone: of its results the first rows.

    Tensors that the call writes are copies, but for those named in `shared`.
    """
    schema = getattr(torch.ops.v4npu, op).default._schema.arguments
    given = dict(zip((a.name for a in schema), args, strict=False))
    if "cu_seqlens_q" in given:
        ends = given["cu_seqlens_q"]
        kept = int((ends[:-1] < count).sum())
        given["cu_seqlens_q"] = ends[: kept + 1].clamp(max=count)
        given |= {name: given[name][:kept] for name in SEQUENCE if given.get(name) is not None}
    if op == "compressor":
        lengths, start, ratio = given["cu_seqlens_q"].diff(), given["start_pos"], given["ratio"]
        given["num_entries"] = int(((start + lengths) // ratio - start // ratio).sum())
        given["slot_mapping"] = given["slot_mapping"][: given["num_entries"]]
    elif given.get("slot_mapping") is not None:
        given["slot_mapping"] = given["slot_mapping"][:count]
    for argument in schema:
        value = given.get(argument.name)
        if argument.name in TOKEN and value is not None:
            given[argument.name] = value[:count]
        written = argument.alias_info is not None and argument.alias_info.is_write
        if isinstance(value, Tensor) and written and argument.name not in shared:
            given[argument.name] = value.clone()
    return tuple(given.values())


# ---- the least that a call reads, writes and multiplies

PAGES = ("window_kv", "compressed_kv", "keys", "state", "window_cache", "cache", "block_table", "window_table")
WEIGHT = {"fn", "weight"}  # every row of which each row of the activations is multiplied with


def _bytes(values: Any) -> float:
    return sum(v.nbytes for v in values if isinstance(v, Tensor))


def _row(pages: Tensor) -> int:
    return pages.shape[-1] * pages.itemsize


def _entries(given: dict[str, Any]) -> tuple[int, int]:
    """Compressed entries that each sequence sees, added up, and those that each token sees, added up."""
    lengths = given["cu_seqlens_q"].diff().tolist()
    seen = [
        [(start + i + 1) // given["ratio"] for i in range(count)]
        for start, count in zip(given["start_pos"].tolist(), lengths, strict=True)
    ]
    return sum(max(s, default=0) for s in seen), sum(map(sum, seen))


def _attention(given: dict[str, Any]) -> tuple[float, float]:
    q, window = given["q"], given["window"]
    before = sum(min(start, window - 1) for start in given["start_pos"].tolist())
    moved, keys = float((before + len(q)) * _row(given["window_kv"])), len(q) * window
    if "topk_indices" in given:
        picks = given["topk_indices"][given["topk_indices"] >= 0]
        different, seen = len(picks.unique()), len(picks)
    else:
        different, seen = _entries(given) if "ratio" in given else (0, 0)
    if different:
        moved += different * _row(given["compressed_kv"])
    return moved, 4.0 * q.shape[1] * q.shape[2] * (keys + seen)


def work(op: str, args: tuple[Any, ...], results: Any) -> tuple[float, float]:
    """Bytes, each row that is needed once, and flops of a call that returned `results`."""
    given = dict(zip(argument_names(op), args, strict=False))
    moved = _bytes(results if isinstance(results, tuple) else (results,))
    moved += _bytes(v for k, v in given.items() if k not in PAGES)
    if op.endswith("attention"):
        paged, flops = _attention(given)
        return moved + paged, flops
    if op.startswith("indexer_") and "keys" in given:
        different, seen = _entries(given)
        return moved + different * _row(given["keys"]), 2.0 * given["q"].shape[1] * given["q"].shape[2] * seen
    if op == "moe_experts":
        indices, packed = given["topk_indices"], _bytes(args[3:9])
        moved -= packed * (1 - len(indices.unique()) / len(given["w1"]))
        return moved, 6.0 * indices.numel() * given["x"].shape[1] * given["w1"].shape[1]
    if op in ("qkv_prepare", "compressor"):
        pages = given.get("window_cache", given.get("cache"))
        return moved + (0 if pages is None else len(given["slot_mapping"]) * _row(pages)), 0.0
    x, weight = args[0], next((given[k] for k in WEIGHT if k in given), None)
    if weight is None or weight.ndim != 2:
        return moved, 0.0
    return moved, 2.0 * x.numel() * weight.shape[0] / (x.shape[1] if op == "grouped_linear" else 1)
