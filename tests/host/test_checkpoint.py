"""Checkpoints: official layout out, any spelling in, whole or not at all."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from v4npu import checkpoint
from v4npu.checkpoint import Checkpoint
from v4npu.checkpoint_names import check_tensors, layout
from v4npu.checkpoint_random import random_tensors
from v4npu.model.config import Config, RopeScaling
from v4npu.reference.formats import dequantise_weight, quantise_weight_fp8

CONFIG = Config(
    vocab_size=40, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, q_lora_rank=32, o_groups=2,
    n_routed_experts=4, moe_intermediate_size=32, compress_ratios=(0, 4, 16, 4, 0), head_dim=32,
    qk_rope_head_dim=16, o_lora_rank=16, sliding_window=8, index_n_heads=2, index_head_dim=16, index_topk=4,
    num_experts_per_tok=2, num_hash_layers=1, rope_scaling=RopeScaling(4.0, 64), max_position_embeddings=512,
)  # fmt: skip


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    opened = Checkpoint(path)
    return {name: opened.tensor(name) for name in opened.names()}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert raw(a[name]) == raw(b[name]), name


@pytest.mark.parametrize(("expert", "attention"), [("fp4", "fp8"), ("fp8", "bf16"), ("bf16", "fp32")])
def test_random_checkpoint_round_trips(tmp_path: Path, expert: str, attention: str) -> None:
    checkpoint.random(tmp_path / "a", CONFIG, seed=3, expert_dtype=expert, attention_dtype=attention)
    opened = Checkpoint(tmp_path / "a")
    assert opened.config == replace(CONFIG, expert_dtype=expert, quantized=attention == "fp8")
    read = tensors_of(tmp_path / "a")
    assert_same(read, dict(random_tensors(CONFIG, 3, expert, attention)))
    assert opened.nbytes == sum(tensor.nbytes for tensor in read.values())
    stored = {"fp4": torch.int8, "fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16, "fp32": torch.float32}
    assert read["layers.2.ffn.experts.3.w2.weight"].dtype == stored[expert]
    assert read["mtp.0.e_proj.weight"].dtype == read["layers.1.attn.indexer.wq_b.weight"].dtype == stored[attention]
    checkpoint.save(tmp_path / "b", opened.config, ((name, opened.tensor(name)) for name in opened.names()))
    assert_same(tensors_of(tmp_path / "b"), read)


def test_random_weights_are_plausible(tmp_path: Path) -> None:
    tensors = dict(random_tensors(CONFIG, 0))
    assert sorted(set(tensors) & set(layout(CONFIG))) == sorted(layout(CONFIG))
    for name, spec in layout(CONFIG).items():
        scale = tensors.get(name.removesuffix(".weight") + ".scale") if spec.kind in ("linear", "expert") else None
        if spec.kind == "ids":
            assert all(len(set(row)) == 2 and set(row) <= set(range(4)) for row in tensors[name].tolist())
        elif spec.kind in ("linear", "expert"):
            value = dequantise_weight(tensors[name], scale, torch.float32)
            assert value.std().item() == pytest.approx(spec.shape[1] ** -0.5, rel=0.2), name
        elif spec.kind == "norm":
            assert tensors[name].mean().item() == pytest.approx(1.0, abs=0.15), name
    checkpoint.random(tmp_path / "a", CONFIG, mtp=False)
    assert Checkpoint(tmp_path / "a").config.num_nextn_predict_layers == 0
    with pytest.raises(ValueError, match="expert_dtype must be one of"):
        checkpoint.random(tmp_path / "b", CONFIG, expert_dtype="int3")


@pytest.mark.parametrize("original_format", [True, False])
def test_names_that_transformers_writes(tmp_path: Path, original_format: bool) -> None:
    deepseek_v4 = pytest.importorskip("transformers.models.deepseek_v4")
    torch.manual_seed(0)
    values = CONFIG.to_dict()
    for key in ("quantization_config", "compress_ratios", "model_type", "rope_scaling"):
        del values[key]
    values["compress_ratios"] = [0, 4, 128, 4]
    values["rope_parameters"] = {"rope_type": "yarn", **vars(CONFIG.rope_scaling)}
    model = deepseek_v4.DeepseekV4ForCausalLM(deepseek_v4.DeepseekV4Config(**values, compress_rate_hca=16))
    model.save_pretrained(tmp_path, save_original_format=original_format)
    opened = Checkpoint(tmp_path)
    assert opened.config.compress_ratios == (0, 4, 16, 4)
    state = model.state_dict()
    assert len(opened.names()) == len(layout(CONFIG.without_mtp()))
    layer, inner = "model.layers.1.", CONFIG.moe_intermediate_size
    fused = state[layer + "mlp.experts.gate_up_proj"]
    for name, expected in (
        ("embed.weight", state["model.embed_tokens.weight"]),
        ("head.weight", state["lm_head.weight"]),
        ("hc_head_fn", state["model.hc_head.hc_fn"]),
        ("layers.1.hc_attn_scale", state[layer + "attn_hc.scale"]),
        ("layers.1.attn.attn_sink", state[layer + "self_attn.sinks"]),
        ("layers.1.attn.kv_norm.weight", state[layer + "self_attn.kv_norm.weight"]),
        ("layers.1.attn.compressor.ape", state[layer + "self_attn.compressor.position_bias"]),
        ("layers.1.attn.compressor.norm.weight", state[layer + "self_attn.compressor.kv_norm.weight"]),
        ("layers.1.attn.compressor.wgate.weight", state[layer + "self_attn.compressor.gate_proj.weight"]),
        ("layers.1.attn.indexer.wq_b.weight", state[layer + "self_attn.compressor.indexer.q_b_proj.weight"]),
        (
            "layers.1.attn.indexer.compressor.wkv.weight",
            state[layer + "self_attn.compressor.indexer.kv_proj.weight"],
        ),
        ("layers.1.ffn.shared_experts.w3.weight", state[layer + "mlp.shared_experts.up_proj.weight"]),
        ("layers.1.ffn.gate.bias", state[layer + "mlp.gate.e_score_correction_bias"]),
        ("layers.1.ffn.experts.2.w1.weight", fused[2, :inner]),
        ("layers.1.ffn.experts.2.w3.weight", fused[2, inner:]),
        ("layers.1.ffn.experts.3.w2.weight", state[layer + "mlp.experts.down_proj"][3]),
    ):
        assert torch.equal(opened.tensor(name), expected), name


def rewritten(path: Path, change: Any) -> Path:
    """A random checkpoint whose tensor dict went through `change`; written without any check."""
    checkpoint.random(path, CONFIG)
    file = path / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    save_file(change(tensors) or tensors, file)
    return path


def test_fused_and_raw_scales(tmp_path: Path) -> None:
    """FP8 and FP4 as transformers' quantizer stores them: fused, float32 weight_scale_inv, or raw bytes."""
    plain = dict(random_tensors(CONFIG, 0))

    def change(tensors: dict[str, torch.Tensor]) -> None:
        prefix = "layers.1.ffn.experts."
        for leaf, suffix in (("weight", ""), ("scale", "_scale_inv")):
            w = [[tensors.pop(f"{prefix}{e}.{m}.{leaf}") for e in range(4)] for m in ("w1", "w3", "w2")]
            name = "model.layers.1.mlp.experts."
            fused = [torch.cat((a.view(torch.uint8), b.view(torch.uint8))) for a, b in zip(w[0], w[1], strict=True)]
            tensors[f"{name}gate_up_proj{suffix}"] = torch.stack(fused)
            tensors[f"{name}down_proj{suffix}"] = torch.stack([t.view(torch.uint8) for t in w[2]])
        scale = tensors.pop("layers.0.attn.wq_a.scale")
        tensors["layers.0.self_attn.q_a_proj.weight_scale_inv"] = scale.float()
        tensors["layers.0.attn.wkv.scale"] = tensors["layers.0.attn.wkv.scale"].view(torch.uint8)
        tensors["mtp.0.emb.tok_emb.weight"] = torch.zeros(2)
        tensors["layers.0.ffn.gate.tid2eid"] = tensors["layers.0.ffn.gate.tid2eid"].int()

    opened = Checkpoint(rewritten(tmp_path / "a", change))
    assert_same({name: opened.tensor(name) for name in opened.names()}, plain)


def replaced(name: str, value: torch.Tensor | None) -> Any:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        return rest if value is None else {**rest, name: value}

    return change


FP8, FP8_SCALE = quantise_weight_fp8(torch.ones(32, 64))
MISFITS = [
    ("norm.weight", None, r"norm\.weight is missing, expected BF16, .* \[64\]"),
    ("norm.weight", torch.ones(65), r"norm\.weight must be .*\[64\], got F32 \[65\]"),
    ("norm.weight", torch.ones(64, dtype=torch.int8), r"norm\.weight must be .*, got I8 \[64\]"),
    ("layers.0.attn.wq_a.scale", None, r"wq_a\.scale must be F8_E8M0 \[1, 1\], got nothing"),
    ("layers.0.attn.wq_a.scale", torch.ones(2, 1), r"wq_a\.scale must be F8_E8M0 \[1, 1\], got F32 \[2, 1\]"),
    ("layers.0.attn.wq_a.weight", torch.ones(32, 64), r"wq_a\.scale is unexpected"),
    ("layers.0.attn.wq_a.weight", torch.ones(32, 32, dtype=torch.int8), r"wq_a\.weight must be .*F8_E4M3"),
    ("layers.0.ffn.gate.tid2eid", torch.ones(40, 2), r"tid2eid must be I64 \[40, 2\], got F32"),
    ("layers.0.ffn.experts.1.w1.weight", torch.ones(32, 64), r"1\.w1\.weight must be I8 like .*0\.w1"),
    ("layers.9.attn_sink", torch.ones(1), r"layers\.9\.attn_sink is unexpected"),
    ("mtp.0.enorm.weight", None, r"mtp\.0\.enorm\.weight is missing"),
    ("model.norm.weight", torch.ones(64), r"'norm\.weight' must be stored once"),
    ("layers.0.mlp.experts.gate_up_proj", torch.ones(5, 64, 64), r"up_proj.* must be \[4, 64, 64\] or \[4, 64, 32\]"),
    ("layers.0.mlp.experts.gate_up_proj", torch.ones(4, 0, 0), r"gate_up_proj.* must be .*, got \[4, 0, 0\]"),
    ("layers.0.mlp.experts.down_proj", torch.ones(4, 64, 64), r"must be \[4, 64, 32\] or \[4, 64, 16\], got"),
    ("layers.0.mlp.experts.down_proj", torch.ones(4, 64), r"down_proj.*, got \[4, 64\]"),
    ("layers.0.mlp.experts.down_proj_scale_inv", torch.ones(4, 64, 2), r"must be \[4, 1, 1\] or \[4, 64, 1\], got"),
    ("layers.0.mlp.experts.gate_up_proj_scale_inv", torch.ones(4, 2, 1), r"must be \[4, 64, 2\], got \[4, 2, 1\]"),
    ("layers.4.mlp.experts.down_proj", torch.ones(4, 64, 32), r"layers\.4\..*down_proj\.weight is unexpected"),
    ("layers.01.mlp.experts.down_proj", torch.ones(4, 64, 32), r"layers\.01\..*down_proj\.weight is unexpected"),
    ("mtp.1.mlp.experts.down_proj", torch.ones(4, 64, 32), r"mtp\.1\..*down_proj\.weight is unexpected"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), MISFITS)
def test_misfit_is_named(tmp_path: Path, name: str, value: torch.Tensor | None, message: str) -> None:
    path = rewritten(tmp_path / "a", replaced(name, value))
    with pytest.raises(ValueError, match=message) as error:
        Checkpoint(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("first", ["fp4", "fp8", "bf16", "fp32"])
@pytest.mark.parametrize("second", ["fp4", "fp8", "bf16", "fp32"])
def test_experts_of_a_layer_are_quantised_alike(first: str, second: str) -> None:
    """w1 and w3 in one format and w2 in another: which activations are rounded is asked of w1 alone."""
    stored = {name: (t.dtype, tuple(t.shape)) for name, t in random_tensors(CONFIG, 0, first)}
    changed = re.compile(r"layers\.2\.ffn\.experts\.\d+\.w2\.(weight|scale)")
    stored = {name: spec for name, spec in stored.items() if not changed.fullmatch(name)}
    other = random_tensors(CONFIG, 0, second)
    stored |= {name: (t.dtype, tuple(t.shape)) for name, t in other if changed.fullmatch(name)}
    if first == second or {first, second} == {"bf16", "fp32"}:
        check_tensors("here", layout(CONFIG), stored)
        raw_bytes = {n: (torch.uint8, shape) for n, (d, shape) in stored.items() if d == torch.int8 and ".w2." in n}
        check_tensors("here", layout(CONFIG), stored | raw_bytes)
        return
    names = {"fp4": "I8", "fp8": "F8_E4M3", "bf16": "BF16", "fp32": "F32"}
    told = f"here: tensor layers.2.ffn.experts.0.w2.weight must be {names[first]} like layers.2.ffn.experts.0.w1.weight"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}, got {names[second]}$"):
        check_tensors("here", layout(CONFIG), stored)


def test_a_tensor_is_copied_whole_and_nothing_behind_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint(rewritten(tmp_path / "a", lambda tensors: tensors))
    size = checkpoint.spec("norm.weight")[1][0]
    for wrong in (torch.zeros(size - 1), torch.zeros(size + 1), torch.zeros(size, 1)):
        with pytest.raises(ValueError, match=rf"out must be \[{size}\] for tensor 'norm.weight', got \["):
            checkpoint.copy("norm.weight", wrong)
        assert not wrong.any()


def test_many_problems_take_no_memory() -> None:
    specs = layout(replace(CONFIG, n_routed_experts=2**11))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"embed\.weight is missing.*; and 30857 more"):
        check_tensors("here", specs, {})
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_all_problems_in_one_error_and_inexact_scales(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"embed\.weight is missing.*; and \d+ more"):
        Checkpoint(rewritten(tmp_path / "a", lambda tensors: {"norm.weight": tensors["norm.weight"]}))
    for bad in (3.0, 0.0, -1.0, float("nan"), float("inf"), 2.0**-128, 2.0**-149):
        path = rewritten(tmp_path / "b", replaced("layers.0.attn.wq_a.scale", torch.full((1, 1), bad)))
        with pytest.raises(ValueError, match=r"wq_a\.scale.*powers of two"):
            Checkpoint(path).tensor("layers.0.attn.wq_a.scale")
    for power in (-127, 127):
        path = rewritten(tmp_path / "b", replaced("layers.0.attn.wq_a.scale", torch.full((1, 1), 2.0**power)))
        assert Checkpoint(path).tensor("layers.0.attn.wq_a.scale").item() == 2.0**power
    with pytest.raises(FileNotFoundError, match="no such directory"):
        Checkpoint(tmp_path / "absent")
