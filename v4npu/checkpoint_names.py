"""What a V4 checkpoint holds: official names, shapes and dtypes, and other spellings turned into them.

Read as well are the names that DeepSeek's convert.py takes, and those of transformers, whose save_pretrained writes
either its own or official ones behind "model.".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from v4npu.model.config import Config
from v4npu.reference.formats import FP4_BLOCK, WEIGHT_BLOCK
from v4npu.shards import DTYPE_NAMES

FLOATS = (torch.bfloat16, torch.float32, torch.float16, torch.float64)
FP4 = {torch.int8, torch.uint8}  # pairs, either way
SCALES = (torch.float8_e8m0fnu, torch.uint8, torch.float32, torch.bfloat16)  # floats: exact powers of two
TOLD = 6  # problems spelled out in one message


class Spec(NamedTuple):
    """A tensor of the official layout.

    kind: "linear" (float, or e4m3 with .scale), "expert" (also int8 FP4 with .scale), "norm" and "weight"
    (bf16), "fp32" (mHC, sinks, position bias, selection bias), "ids" (int64).
    """

    shape: tuple[int, ...]
    kind: str


def layout(config: Config) -> dict[str, Spec]:
    """Every tensor of a checkpoint but the scales, in file order; matrices are [out, in]."""
    return dict(_tensors(config))


def _tensors(config: Config) -> Iterator[tuple[str, Spec]]:
    vocab, hidden = config.vocab_size, config.hidden_size
    yield "embed.weight", Spec((vocab, hidden), "weight")
    for layer in range(config.num_hidden_layers):
        yield from _block(config, f"layers.{layer}", layer)
    for draft in range(config.num_nextn_predict_layers):
        name = f"mtp.{draft}"
        for leaf in ("e_proj", "h_proj"):
            yield f"{name}.{leaf}.weight", Spec((hidden, hidden), "linear")
        for leaf in ("enorm", "hnorm"):
            yield f"{name}.{leaf}.weight", Spec((hidden,), "norm")
        yield from _block(config, name, config.num_hidden_layers + draft)
        yield f"{name}.norm.weight", Spec((hidden,), "norm")
        yield from _hyper_connection(config, f"{name}.hc_head", config.hc_mult, 1)
    yield "norm.weight", Spec((hidden,), "norm")
    yield from _hyper_connection(config, "hc_head", config.hc_mult, 1)
    yield "head.weight", Spec((vocab, hidden), "weight")


def _hyper_connection(config: Config, name: str, rows: int, scales: int) -> Iterator[tuple[str, Spec]]:
    yield f"{name}_fn", Spec((rows, config.hc_mult * config.hidden_size), "fp32")
    yield f"{name}_base", Spec((rows,), "fp32")
    yield f"{name}_scale", Spec((scales,), "fp32")


def _block(config: Config, name: str, layer: int) -> Iterator[tuple[str, Spec]]:
    mixes = (2 + config.hc_mult) * config.hc_mult
    yield from _hyper_connection(config, f"{name}.hc_attn", mixes, 3)
    yield f"{name}.attn_norm.weight", Spec((config.hidden_size,), "norm")
    yield from _attention(config, f"{name}.attn", config.compress_ratios[layer])
    yield from _hyper_connection(config, f"{name}.hc_ffn", mixes, 3)
    yield f"{name}.ffn_norm.weight", Spec((config.hidden_size,), "norm")
    yield from _experts(config, f"{name}.ffn", layer < config.num_hash_layers)


def _attention(config: Config, name: str, ratio: int) -> Iterator[tuple[str, Spec]]:
    hidden, heads, dim, groups = (
        config.hidden_size,
        config.num_attention_heads,
        config.head_dim,
        config.o_groups,
    )
    q_rank, o_rank = config.q_lora_rank, config.o_lora_rank
    yield f"{name}.attn_sink", Spec((heads,), "fp32")
    yield f"{name}.wq_a.weight", Spec((q_rank, hidden), "linear")
    yield f"{name}.q_norm.weight", Spec((q_rank,), "norm")
    yield f"{name}.wq_b.weight", Spec((heads * dim, q_rank), "linear")
    yield f"{name}.wkv.weight", Spec((dim, hidden), "linear")
    yield f"{name}.kv_norm.weight", Spec((dim,), "norm")
    yield f"{name}.wo_a.weight", Spec((groups * o_rank, heads // groups * dim), "linear")
    yield f"{name}.wo_b.weight", Spec((hidden, groups * o_rank), "linear")
    if ratio:
        yield from _compressor(config, f"{name}.compressor", ratio, dim)
    if config.overlap(ratio):
        index_heads, index_dim = config.index_n_heads, config.index_head_dim
        yield f"{name}.indexer.wq_b.weight", Spec((index_heads * index_dim, q_rank), "linear")
        yield f"{name}.indexer.weights_proj.weight", Spec((index_heads, hidden), "weight")
        yield from _compressor(config, f"{name}.indexer.compressor", ratio, index_dim)


def _compressor(config: Config, name: str, ratio: int, dim: int) -> Iterator[tuple[str, Spec]]:
    width = 2 * dim if config.overlap(ratio) else dim
    yield f"{name}.ape", Spec((ratio, width), "fp32")
    yield f"{name}.wkv.weight", Spec((width, config.hidden_size), "weight")
    yield f"{name}.wgate.weight", Spec((width, config.hidden_size), "weight")
    yield f"{name}.norm.weight", Spec((dim,), "norm")


def _experts(config: Config, name: str, hashed: bool) -> Iterator[tuple[str, Spec]]:
    hidden, inner, experts = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
    yield f"{name}.gate.weight", Spec((experts, hidden), "weight")
    if hashed:
        yield f"{name}.gate.tid2eid", Spec((config.vocab_size, config.num_experts_per_tok), "ids")
    else:
        yield f"{name}.gate.bias", Spec((experts,), "fp32")
    rows = [(f"{name}.experts.{index}", "expert") for index in range(experts)]
    for prefix, kind in [*rows, (f"{name}.shared_experts", "linear")]:
        yield f"{prefix}.w1.weight", Spec((inner, hidden), kind)
        yield f"{prefix}.w3.weight", Spec((inner, hidden), kind)
        yield f"{prefix}.w2.weight", Spec((hidden, inner), kind)


def scale_name(name: str) -> str:
    return name.removesuffix(".weight") + ".scale"


def stored_shapes(spec: Spec, dtype: torch.dtype) -> tuple[tuple[int, ...], tuple[int, ...] | None] | None:
    """Shapes of a tensor stored in `dtype` and of its scale (None: has none); None if it cannot be."""
    if spec.kind == "ids":
        return (spec.shape, None) if dtype in (torch.int64, torch.int32) else None
    if dtype in FLOATS:
        return spec.shape, None
    if spec.kind in ("linear", "expert") and dtype == torch.float8_e4m3fn:
        rows, columns = (-(-n // WEIGHT_BLOCK) for n in spec.shape)
        return spec.shape, (rows, columns)
    if spec.kind == "expert" and dtype in FP4 and spec.shape[1] % FP4_BLOCK == 0:
        return (spec.shape[0], spec.shape[1] // 2), (spec.shape[0], spec.shape[1] // FP4_BLOCK)
    return None


def expected(spec: Spec) -> str:
    """What may be stored for this tensor, for a message."""
    shape = list(spec.shape)
    if spec.kind == "ids":
        return f"I64 {shape}"
    choices = [f"BF16, F16, F32 or F64 {shape}"]
    if spec.kind in ("linear", "expert"):
        choices.append(f"F8_E4M3 {shape} with a .scale")
    if spec.kind == "expert" and shape[1] % FP4_BLOCK == 0:
        choices.append(f"I8 {[shape[0], shape[1] // 2]} (FP4) with a .scale")
    return ", or ".join(choices)


def check_tensors(
    where: str, specs: dict[str, Spec], stored: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> None:
    """One ValueError for everything that is missing, unexpected or of a wrong shape or dtype."""
    problems = _problems(specs, stored)
    if told := list(itertools.islice(problems, TOLD)):
        rest = sum(1 for _ in problems)
        raise ValueError(f"{where}: tensor " + "; tensor ".join(told) + (f"; and {rest} more" if rest else ""))


def _problems(specs: dict[str, Spec], stored: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> Iterator[str]:
    wanted: set[str] = set()
    formats: dict[str, tuple[str, torch.dtype]] = {}  # the first of each matrix of a layer's experts, and of all three
    for name, spec in specs.items():
        if name not in stored:
            yield f"{name} is missing, expected {expected(spec)}"
            continue
        wanted.add(name)
        dtype, shape = stored[name]
        shapes = stored_shapes(spec, dtype)
        if shapes is None or shapes[0] != shape:
            yield f"{name} must be {expected(spec)}, got {describe(dtype, shape)}"
            continue
        if spec.kind == "expert":
            layer, matrix = name.rpartition(".experts.")[0], name.rpartition(".")[0][-3:]
            first = formats.setdefault(layer + matrix, (name, dtype))
            alike = first[1] == dtype  # for experts are stacked
            if first[0] == name:  # activations are rounded for all three matrices or for none
                first = formats.setdefault(layer, (name, dtype))
                alike = any({first[1], dtype} <= kin for kin in (set(FLOATS), FP4, {dtype}))
            if not alike:
                yield f"{name} must be {DTYPE_NAMES[first[1]]} like {first[0]}, got {DTYPE_NAMES[dtype]}"
        if shapes[1] is not None:
            wanted.add(scale_name(name))
            given = stored.get(scale_name(name))
            if given is None or given[1] != shapes[1] or given[0] not in SCALES:
                got = "nothing" if given is None else describe(*given)
                yield f"{scale_name(name)} must be F8_E8M0 {list(shapes[1])}, got {got}"
    for name in stored:
        if name not in wanted:
            yield f"{name} is unexpected, {describe(*stored[name])}"


def describe(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{DTYPE_NAMES.get(dtype, dtype)} {list(shape)}"


_RENAMES = tuple(
    (re.compile(pattern), target)
    for pattern, target in (
        (r"^model\.", ""),
        (r"^lm_head\.", "head."),
        (r"^embed_tokens\.", "embed."),
        (r"^hc_head\.hc_(fn|base|scale)$", r"hc_head_\1"),
        (r"\.self_attn\.", ".attn."),
        (r"\.mlp\.", ".ffn."),
        (r"\.input_layernorm\.", ".attn_norm."),
        (r"\.post_attention_layernorm\.", ".ffn_norm."),
        (r"\.(attn|ffn)_hc\.(fn|base|scale)$", r".hc_\1_\2"),
        (r"\.sinks$", ".attn_sink"),
        (r"\.compressor\.indexer\.(?:scorer\.)?weights_proj\.", ".indexer.weights_proj."),
        (r"\.compressor\.indexer\.q_b_proj\.", ".indexer.wq_b."),
        (r"\.compressor\.indexer\.", ".indexer.compressor."),
        (r"\.compressor\.kv_norm\.", ".compressor.norm."),
        (r"\.position_bias$", ".ape"),
        (r"(compressor)\.gate_proj\.", r"\1.wgate."),
        (r"\.kv_proj\.", ".wkv."),
        (r"\.q_a_proj\.", ".wq_a."),
        (r"\.q_b_proj\.", ".wq_b."),
        (r"\.o_a_proj\.", ".wo_a."),
        (r"\.o_b_proj\.", ".wo_b."),
        (r"\.q_a_norm\.", ".q_norm."),
        (r"\.attn\.norm\.", ".attn.kv_norm."),  # transformers 5.23 with save_original_format writes this
        (r"(experts(?:\.\d+)?)\.gate_proj\.", r"\1.w1."),
        (r"(experts(?:\.\d+)?)\.up_proj\.", r"\1.w3."),
        (r"(experts(?:\.\d+)?)\.down_proj\.", r"\1.w2."),
        (r"\.e_score_correction_bias$", ".bias"),
        (r"\.weight_scale_inv$", ".scale"),
        (r"(experts\.(?:gate_up|down)_proj)_scale_inv$", r"\1.scale"),
        (r"(experts\.(?:gate_up|down)_proj)$", r"\1.weight"),
    )
)
# Copies of the main model's embedding and head, repeated for the draft layer by some releases (5.1).
_REPEATED = re.compile(r"^mtp\..*(?:emb.*|head\.weight)$")
_FUSED = re.compile(r"((layers|mtp)\.(0|[1-9][0-9]{0,3})\.ffn\.experts)\.(gate_up|down)_proj\.(weight|scale)")


def official_name(name: str) -> str | None:
    """The official spelling of a stored name (fused experts keep theirs), or None for one nobody needs."""
    for pattern, target in _RENAMES:
        name = pattern.sub(target, name)
    return None if _REPEATED.match(name) else name


class Part(NamedTuple):
    """Rows [start, stop) of expert `expert` in a fused tensor."""

    expert: int
    start: int
    stop: int


def split_fused(name: str, shape: tuple[int, ...], config: Config) -> list[tuple[str, Part]] | None:
    """The official tensors inside a fused expert tensor [E, rows, columns], or None if it is none of this model's."""
    match = _FUSED.fullmatch(name)
    if match is None:
        return None
    prefix, tower, layer, which, leaf = match.groups()
    if int(layer) >= (config.num_hidden_layers if tower == "layers" else config.num_nextn_predict_layers):
        return None
    shapes = _fused_shapes(config, which, leaf)
    if shape not in shapes:
        choices = " or ".join(str(list(choice)) for choice in shapes) or "stored expert by expert"
        raise ValueError(f"tensor {name!r} must be {choices}, got {list(shape)}")
    experts, rows, _ = shape
    if which == "down":
        return [(f"{prefix}.{e}.w2.{leaf}", Part(e, 0, rows)) for e in range(experts)]
    return [
        (f"{prefix}.{e}.{w}.{leaf}", Part(e, half * rows // 2, (half + 1) * rows // 2))
        for e in range(experts)
        for half, w in enumerate(("w1", "w3"))
    ]


def _fused_shapes(config: Config, which: str, leaf: str) -> list[tuple[int, ...]]:
    """What a fused tensor may be: the experts' weights or scales in any format, gate and up one above the other."""
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    spec = Spec((hidden, inner) if which == "down" else (inner, hidden), "expert")
    halves = 1 if which == "down" else 2
    found: list[tuple[int, ...]] = []
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.int8):
        shapes = stored_shapes(spec, dtype)
        part = None if shapes is None else shapes[leaf == "scale"]
        straddles = leaf == "scale" and dtype == torch.float8_e4m3fn and halves == 2 and inner % WEIGHT_BLOCK
        if part is not None and not straddles:  # else one scale is of rows of both halves
            found.append((config.n_routed_experts, halves * part[0], part[1]))
    return list(dict.fromkeys(found))
