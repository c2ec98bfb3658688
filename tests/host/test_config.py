"""The configuration: three spellings, one meaning; every wrong value is refused by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from v4npu.model.config import Config, RopeScaling


def official(**changes: Any) -> dict[str, Any]:
    """A small config.json with official keys."""
    out = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "vocab_size": 512,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "qk_rope_head_dim": 64,
        "q_lora_rank": 64,
        "o_groups": 2,
        "o_lora_rank": 32,
        "sliding_window": 16,
        "index_n_heads": 4,
        "index_head_dim": 64,
        "index_topk": 8,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "num_hash_layers": 1,
        "routed_scaling_factor": 1.5,
        "swiglu_limit": 10.0,
        "rope_theta": 10000,
        "compress_rope_theta": 160000,
        "rope_scaling": {
            "type": "yarn",
            "factor": 16,
            "beta_fast": 32,
            "beta_slow": 1,
            "original_max_position_embeddings": 65536,
        },
        "compress_ratios": [0, 128, 4, 4, 0],
        "num_nextn_predict_layers": 1,
        "torch_dtype": "bfloat16",
        "expert_dtype": "fp4",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    }
    return {**out, **changes}


@pytest.mark.parametrize(
    ("name", "layers", "csa", "hca", "window", "hidden", "heads", "experts"),
    [("pro", 61, 30, 31, 0, 7168, 128, 384), ("flash", 43, 21, 20, 2, 4096, 64, 256)],
)
def test_presets_are_the_public_models(
    name: str, layers: int, csa: int, hca: int, window: int, hidden: int, heads: int, experts: int
) -> None:
    config = Config.preset(name)
    assert (config.num_hidden_layers, config.hidden_size) == (layers, hidden)
    assert (config.num_attention_heads, config.n_routed_experts) == (heads, experts)
    assert (len(config.csa_layers), len(config.hca_layers), len(config.window_layers)) == (csa, hca, window)
    assert config.csa_layers == tuple(range(2, layers, 2))
    assert len(config.compress_ratios) == layers + 1 and config.compress_ratios[-1] == 0
    assert config.num_attention_heads // config.o_groups * config.head_dim == 4096
    assert config.rope_scaling == RopeScaling(16.0, 65536, 32.0, 1.0)


@pytest.mark.parametrize("config", [Config.preset("pro"), Config.preset("flash"), Config.from_dict(official())])
def test_to_dict_reads_back(config: Config) -> None:
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_inference_spelling() -> None:
    values = {
        "vocab_size": 512, "dim": 256, "moe_inter_dim": 64, "n_layers": 4, "n_hash_layers": 1, "n_heads": 8,
        "n_routed_experts": 8, "n_shared_experts": 1, "n_activated_experts": 2, "score_func": "sqrtsoftplus",
        "route_scale": 1.5, "swiglu_limit": 10.0, "q_lora_rank": 64, "head_dim": 128, "rope_head_dim": 64,
        "o_groups": 2, "o_lora_rank": 32, "window_size": 16, "original_seq_len": 65536, "rope_theta": 10000,
        "rope_factor": 16, "beta_fast": 32, "beta_slow": 1, "index_n_heads": 4, "index_head_dim": 64,
        "index_topk": 8, "compress_rope_theta": 160000, "compress_ratios": [0, 128, 4, 4, 0], "dtype": "fp8",
        "scale_fmt": "ue8m0", "expert_dtype": "fp4",
    }  # fmt: skip
    assert Config.from_dict(values) == Config.from_dict(official())
    assert Config.from_dict({**values, "original_seq_len": 0}).rope_scaling is None


def transformers_spelling(**changes: Any) -> dict[str, Any]:
    """What DeepseekV4Config writes for `official()`, with shrunk compression rates."""
    csa, hca = "compressed_sparse_attention", "heavily_compressed_attention"
    out = official(
        layer_types=["sliding_attention", hca, csa, csa],
        compress_rates={csa: 4, hca: 16},
        mlp_layer_types=["hash_moe", "moe", "moe", "moe"],
        num_local_experts=8,
        dtype="float32",
        rope_parameters={
            "main": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
            "compress": {
                "rope_type": "yarn",
                "rope_theta": 70000.0,
                "factor": 4,
                "beta_fast": 32,
                "beta_slow": 1,
                "original_max_position_embeddings": 64,
                "attention_factor": 1.0,
                "partial_rotary_factor": 0.5,
            },
        },
    )
    removed = ("compress_ratios", "rope_scaling", "num_hash_layers", "n_routed_experts", "quantization_config")
    for key in (*removed, "qk_rope_head_dim", "rope_theta", "compress_rope_theta", "torch_dtype", "expert_dtype"):
        del out[key]
    return {**out, **changes}


def test_transformers_spelling() -> None:
    config = Config.from_dict(transformers_spelling())
    assert config.compress_ratios == (0, 16, 4, 4, 0)
    assert (config.hca_layers, config.csa_layers, config.num_hash_layers) == ((1,), (2, 3), 1)
    assert (config.rope_theta, config.compress_rope_theta) == (5000.0, 70000.0)
    assert config.rope_scaling == RopeScaling(4, 64, 32, 1)
    assert (config.qk_rope_head_dim, config.torch_dtype, config.quantized) == (64, "float32", False)
    assert Config.from_dict(config.to_dict()) == config


def test_layers_of_one_kind_keep_it_whatever_their_ratio() -> None:
    csa, hca = "compressed_sparse_attention", "heavily_compressed_attention"
    for kind, layers in ((hca, "hca_layers"), (csa, "csa_layers")):
        for rates in ({csa: 4, hca: 4}, {csa: 128, hca: 128}, {csa: 128, hca: 4}):
            config = Config.from_dict(transformers_spelling(layer_types=[kind] * 4, compress_rates=rates))
            assert getattr(config, layers) == (0, 1, 2, 3) and config.compress_ratios == (rates[kind],) * 4 + (0,)
            assert Config.from_dict(config.to_dict()) == config


def test_transformers_flat_rope_and_shrunk_ratios() -> None:
    yarn = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64}
    config = Config.from_dict(official(rope_scaling=None, rope_parameters=yarn, compress_rate_hca=16))
    assert config.rope_scaling == RopeScaling(4, 64)
    assert config.compress_ratios == (0, 16, 4, 4, 0)
    assert Config.from_dict(official(rope_scaling=None)).rope_scaling is None
    shrunk = Config.from_dict(official(compress_rate_csa=2))
    assert (shrunk.compress_ratios, shrunk.overlap_ratios) == ((0, 128, 2, 2, 0), (2,))
    assert Config.from_dict(shrunk.to_dict()).layer_kind(2) == "csa"


def test_transformers_config_object() -> None:
    deepseek_v4 = pytest.importorskip("transformers.models.deepseek_v4")
    written = deepseek_v4.DeepseekV4Config(num_hidden_layers=6, num_hash_layers=2).to_dict()
    config = Config.from_dict(written)
    assert config.compress_ratios == (128, 128, 128, 4, 128, 4, 0)
    assert (config.num_hash_layers, config.qk_rope_head_dim, config.rope_scaling) == (2, 64, None)


def test_ratios_of_main_layers_only_and_without_mtp() -> None:
    config = Config.from_dict(official(compress_ratios=[0, 128, 4, 4]))
    assert config == Config.from_dict(official())
    assert config.without_mtp().compress_ratios == (0, 128, 4, 4)
    assert [config.layer_kind(i) for i in range(5)] == ["window", "hca", "csa", "csa", "window"]


WRONG = [
    ("vocab_size", 2**24 + 1), ("vocab_size", "512"), ("vocab_size", True), ("hidden_size", 0),
    ("hidden_size", 2**20 + 1), ("num_hidden_layers", 1025), ("num_hidden_layers", 4.0), ("head_dim", -1),
    ("compress_ratios", [0, 4]), ("compress_ratios", "0440"), ("compress_ratios", [0, 4, 4, -4]),
    ("o_groups", 3), ("qk_rope_head_dim", 63), ("qk_rope_head_dim", 256), ("index_head_dim", 96),
    ("index_head_dim", 32), ("num_experts_per_tok", 9), ("hc_mult", 0), ("hc_sinkhorn_iters", 0),
    ("rms_norm_eps", "small"), ("rms_norm_eps", float("nan")), ("rope_theta", 0), ("swiglu_limit", -1.0),
    ("rope_scaling", "yarn"), ("rope_scaling", {"type": "yarn", "factor": 4}), ("torch_dtype", "int8"),
    ("rope_scaling", {"type": "yarn", "factor": 0, "original_max_position_embeddings": 64}),
    ("num_hash_layers", 5), ("eos_token_id", 512), ("bos_token_id", -1), ("quantization_config", "fp8"),
    ("layer_types", ["linear_attention"] * 4), ("compress_rates", {"linear_attention": 4}),
    ("rope_scaling", {"factor": 4, "original_max_position_embeddings": 64}), ("expert_dtype", 8),
    ("mlp_layer_types", ["dense"] * 4), ("hidden_size", None), ("compress_rope_theta", 1), ("n_routed_experts", 2**16),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        Config.from_dict(official(**{key: value}))


YARN = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64}
OVERFLOWING = [
    ("rms_norm_eps", {"rms_norm_eps": 10**400}), ("head_dim", {"partial_rotary_factor": 0.5, "head_dim": 10**400}),
    *((key, {"rope_scaling": {**YARN, key: value}}) for key, value in
      (("factor", 10**400), ("beta_fast", 0), ("beta_slow", 5e-324))),
    *(("partial_rotary_factor", {"partial_rotary_factor": float(value)}) for value in ("inf", "nan", "1.5")),
]  # fmt: skip


@pytest.mark.parametrize(("key", "changes"), OVERFLOWING)
def test_what_would_overflow_is_named(key: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=key):
        Config.from_dict({name: value for name, value in official(**changes).items() if name != "qk_rope_head_dim"})


UNSUPPORTED = [
    ("scoring_func", "sigmoid"), ("n_shared_experts", 2), ("attention_bias", True), ("hidden_act", "gelu"),
    ("tie_word_embeddings", True), ("num_key_value_heads", 2), ("compress_ratios", [0, 128, 4, 4, 4]),
    ("quantization_config", {"quant_method": "gptq"}), ("rope_scaling", {"type": "llama3", "factor": 8}),
    ("quantization_config", {"quant_method": "fp8", "weight_block_size": [32, 32]}), ("scale_fmt", "float32"),
    *((f"quantization_config.{key}", {"quant_method": "fp8", key: value}) for key, value in
      (("fmt", "e5m2"), ("scale_fmt", "float32"), ("activation_scheme", "static"))),
    ("mlp_layer_types", ["moe", "hash_moe", "moe", "moe"]), ("dspark_block_size", 5),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), UNSUPPORTED)
def test_unsupported_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(NotImplementedError, match=key):
        Config.from_dict(official(**{key.partition(".")[0]: value}))


def test_architecture() -> None:
    with pytest.raises(ValueError, match="unknown architecture: model_type 'llama'"):
        Config.from_dict(official(model_type="llama", architectures=["LlamaForCausalLM"]))
    with pytest.raises(ValueError, match="unknown architecture"):
        Config.from_dict({"hidden_size": 4096})
    with pytest.raises(NotImplementedError, match="deepseek_v41"):
        Config.from_dict({"model_type": "deepseek_v41"})


def test_missing_and_contradicting_keys_are_named() -> None:
    with pytest.raises(ValueError, match="'q_lora_rank' must be given"):
        Config.from_dict({key: value for key, value in official().items() if key != "q_lora_rank"})
    with pytest.raises(ValueError, match="hidden_size and dim must agree"):
        Config.from_dict(official(dim=128))
    with pytest.raises(ValueError, match="hidden_size"):
        dataclasses.replace(Config.preset("pro"), hidden_size=0)
    with pytest.raises(ValueError, match=r"must have 4 entries \(num_hidden_layers\), got 5"):
        Config.from_dict(official(num_nextn_predict_layers=0))
    with pytest.raises(ValueError, match="preset must be one of pro, flash"):
        Config.preset("nano")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"vocab_size": ' + b"9" * 5000 + b"}"])
def test_malformed_file_is_named(tmp_path: Any, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        Config.from_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        Config.from_file(tmp_path / "absent")
