"""The three spellings of a V4 config.json, turned into the official Hugging Face keys; judges no values."""

from __future__ import annotations

from typing import Any

ALIASES = {
    # official inference/config.json
    "dim": "hidden_size",
    "moe_inter_dim": "moe_intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_hash_layers": "num_hash_layers",
    "n_mtp_layers": "num_nextn_predict_layers",
    "n_heads": "num_attention_heads",
    "n_activated_experts": "num_experts_per_tok",
    "score_func": "scoring_func",
    "route_scale": "routed_scaling_factor",
    "rope_head_dim": "qk_rope_head_dim",
    "window_size": "sliding_window",
    "norm_eps": "rms_norm_eps",
    # transformers
    "num_local_experts": "n_routed_experts",
    "intermediate_size": "moe_intermediate_size",
}
ARCHITECTURE, MODEL_TYPE = "DeepseekV4ForCausalLM", "deepseek_v4"
WINDOW, CSA, HCA = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
QUANTIZATION = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128],
}
PRESETS: dict[str, dict[str, Any]] = {  # where the public models differ
    "pro": {
        "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "q_lora_rank": 1536, "o_groups": 16, "n_routed_experts": 384, "moe_intermediate_size": 3072,
        "index_topk": 1024, "routed_scaling_factor": 2.5,
        "compress_ratios": (128, 128) + (4, 128) * 29 + (4, 0),
    },
    "flash": {
        "vocab_size": 129280, "hidden_size": 4096, "num_hidden_layers": 43, "num_attention_heads": 64,
        "q_lora_rank": 1024, "o_groups": 8, "n_routed_experts": 256, "moe_intermediate_size": 2048,
        "index_topk": 512, "routed_scaling_factor": 1.5,
        "compress_ratios": (0, 0) + (4, 128) * 20 + (4, 0),
    },
}  # fmt: skip


def normalise(values: dict[str, Any]) -> dict[str, Any]:
    """The same configuration under official keys (rope_scaling as RopeScaling's arguments, or absent)."""
    if not isinstance(values, dict):
        raise ValueError(f"config must be a JSON object, got {type(values).__name__}")
    _check_architecture(values)
    out = {key: value for key, value in values.items() if key not in ALIASES}
    for alias, key in ALIASES.items():
        if alias in values:
            if out.setdefault(key, values[alias]) != values[alias]:
                raise ValueError(f"{key} and {alias} must agree, got {out[key]!r} and {values[alias]!r}")
    _dtype(out)
    _rope(out)
    _layers(out)
    return out


def _check_architecture(values: dict[str, Any]) -> None:
    model_type, architectures = values.get("model_type"), values.get("architectures")
    if model_type == "deepseek_v41" or architectures == ["DeepseekV41ForCausalLM"]:
        raise NotImplementedError("deepseek_v41: V4.1 changes attention, mHC and cache; this build runs V4")
    if model_type is None and architectures is None:
        known = "dim" in values and "n_layers" in values  # inference/config.json does not say what it is
    else:
        known = model_type in (None, MODEL_TYPE) and architectures in (None, [ARCHITECTURE])
    if not known:
        raise ValueError(
            f"unknown architecture: model_type {model_type!r}, architectures {architectures!r};"
            f" expected {MODEL_TYPE!r}, [{ARCHITECTURE!r}]"
        )
    if "dspark_block_size" in values:
        raise NotImplementedError("dspark_block_size: DSpark draft layers are not part of this build")


def _dtype(out: dict[str, Any]) -> None:
    """`dtype` is the activations' type to transformers and the linears' format to inference/config.json."""
    dtype = out.pop("dtype", None)
    if dtype in ("fp8", "bf16"):
        out.setdefault("torch_dtype", "bfloat16")
        out["quantized"] = dtype == "fp8"
    elif dtype is not None:
        out.setdefault("torch_dtype", dtype)
    quantization = out.pop("quantization_config", None)
    if quantization is not None:
        _check_quantization(quantization)
        out.setdefault("expert_dtype", quantization.get("expert_dtype"))
        out["quantized"] = True
    if (scales := out.pop("scale_fmt", None)) not in (None, "ue8m0"):
        raise NotImplementedError(f"scale_fmt {scales!r}: V4 has 'ue8m0'")
    out.setdefault("quantized", False)
    if out.get("expert_dtype") is None:
        out["expert_dtype"] = "fp8" if out["quantized"] else "bf16"


def _check_quantization(quantization: Any) -> None:
    if not isinstance(quantization, dict):
        raise ValueError(f"quantization_config must be an object, got {quantization!r}")
    for key, only in QUANTIZATION.items():
        given = quantization.get(key, None if key == "quant_method" else only)
        if given != only:
            raise NotImplementedError(f"quantization_config.{key} {given!r}: V4 has {only!r}")


def _rope(out: dict[str, Any]) -> None:
    """Folds rope_parameters (nested or flat), rope_scaling and rope_factor + original_seq_len into one."""
    scaling = out.pop("rope_scaling", None)
    parameters = out.pop("rope_parameters", None)
    for name, value in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{name} must be an object, got {value!r}")
    partial = out.pop("partial_rotary_factor", None)
    if parameters:
        main, compress = parameters.get("main"), parameters.get("compress")
        if isinstance(main, dict) and isinstance(compress, dict):
            if main.get("rope_type", "default") != "default":
                kind = main["rope_type"]
                raise NotImplementedError(f"rope_parameters.main.rope_type {kind!r}: V4 has 'default'")
            for key, part in (("rope_theta", main), ("compress_rope_theta", compress)):
                if "rope_theta" in part:
                    out[key] = part["rope_theta"]
            partial = compress.get("partial_rotary_factor", partial)
            parameters = compress
        scaling = scaling or parameters
    if partial is not None and "qk_rope_head_dim" not in out:
        head = out.get("head_dim", 512)
        if type(partial) not in (int, float) or not 0 <= partial <= 1:
            raise ValueError(f"partial_rotary_factor must be a number from 0 to 1, got {partial!r}")
        if type(head) is not int or not 0 < head < 2**53:  # what Config takes is less
            raise ValueError(f"head_dim must be a positive integer with partial_rotary_factor, got {head!r}")
        out["qk_rope_head_dim"] = int(head * partial)
    if scaling is None and out.get("original_seq_len"):
        scaling = {
            "type": "yarn",
            "factor": out.get("rope_factor"),
            "original_max_position_embeddings": out["original_seq_len"],
            "beta_fast": out.get("beta_fast", 32),
            "beta_slow": out.get("beta_slow", 1),
        }
    if scaling:
        if "factor" in scaling and "type" not in scaling and "rope_type" not in scaling:
            raise ValueError("rope_scaling.type must be given with rope_scaling.factor: V4 uses 'yarn'")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "yarn":
            out["rope_scaling"] = _yarn(scaling)
        elif kind != "default":
            raise NotImplementedError(f"rope_scaling type {kind!r}: V4 uses 'yarn'")


def _yarn(scaling: dict[str, Any]) -> dict[str, Any]:
    if scaling.get("attention_factor", 1.0) not in (None, 1, 1.0):
        factor = scaling["attention_factor"]
        raise NotImplementedError(f"rope_scaling.attention_factor {factor!r}: V4 has 1.0")
    keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
    for key in keys[:2]:
        if scaling.get(key) is None:
            raise ValueError(f"rope_scaling.{key} must be given")
    return {key: scaling[key] for key in keys if scaling.get(key) is not None}


def _layers(out: dict[str, Any]) -> None:
    """layer_types and compress_rates become compress_ratios; mlp_layer_types becomes num_hash_layers."""
    rates = {CSA: 4, HCA: 128}
    given = out.pop("compress_rates", None) or {}
    if not isinstance(given, dict) or not set(given) <= set(rates):
        raise ValueError(f"compress_rates must be an object with {CSA} and {HCA}, got {given!r}")
    shrunk = {key: out.pop(key) for key in ("compress_rate_csa", "compress_rate_hca") if key in out}
    rates.update(given)
    rates[CSA] = shrunk.get("compress_rate_csa", rates[CSA])
    rates[HCA] = shrunk.get("compress_rate_hca", rates[HCA])
    kinds = out.pop("layer_types", None)
    if kinds is None and (given or shrunk) and isinstance(out.get("compress_ratios"), (list, tuple)):
        named = {0: WINDOW, 4: CSA, 128: HCA}  # transformers: 4 and 128 name the kind, the rates its ratio
        kinds = [named.get(ratio) if type(ratio) is int else None for ratio in out["compress_ratios"]]
    if kinds is not None:
        if not isinstance(kinds, list) or not all(kind in (WINDOW, CSA, HCA) for kind in kinds):
            raise ValueError(f"layer_types must be a list of {WINDOW}, {CSA} and {HCA}, got {kinds!r}")
        if rates[CSA] == rates[HCA] and {CSA, HCA} <= set(kinds):
            raise NotImplementedError(f"compress_rates: CSA and HCA layers with one ratio {rates[CSA]}")
        out["compress_ratios"] = [0 if kind == WINDOW else rates[kind] for kind in kinds]
        out["overlap_ratios"] = [rates[CSA]] if CSA in kinds else [4] if rates[HCA] != 4 else []
    mlp = out.pop("mlp_layer_types", None)
    if mlp is not None:
        if not isinstance(mlp, list) or not all(kind in ("hash_moe", "moe") for kind in mlp):
            raise ValueError(f"mlp_layer_types must be a list of hash_moe and moe, got {mlp!r}")
        count = mlp.count("hash_moe")
        if "hash_moe" in mlp[count:]:
            raise NotImplementedError("mlp_layer_types: hash_moe layers must come first")
        out["num_hash_layers"] = count
