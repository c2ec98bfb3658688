"""The configuration of a DeepSeek-V4 model, under the key names of the official config.json.

Three spellings are read: the official Hugging Face keys, those of the official inference/config.json (dim,
n_layers, ...) and those that transformers writes (layer_types, compress_rates, rope_parameters, ...).
docs/v4.md says what the main ones mean.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from v4npu.model.config_keys import ARCHITECTURE, MODEL_TYPE, PRESETS, QUANTIZATION, normalise

LIMITS = {
    "vocab_size": (1, 2**24),
    "num_hidden_layers": (1, 1024),
    "num_nextn_predict_layers": (0, 16),
    "num_hash_layers": (0, 1024),
    "num_attention_heads": (1, 2**16),
    "n_routed_experts": (1, 2**16),
    "num_experts_per_tok": (1, 2**16),
    "index_n_heads": (1, 2**16),
    "hc_mult": (1, 64),
    "hc_sinkhorn_iters": (1, 10_000),
    "max_position_embeddings": (1, 2**40),
}
DIMENSION = (1, 2**20)
EXPERTS = 2**17  # of all layers; V4-Pro has 62 * 384, and each is three tensors with a name, a shape and a scale
DTYPES = ("bfloat16", "float16", "float32", "float64")
SINGLE_CHOICE = {  # written for other readers; every V4 checkpoint has these values
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
    "attention_bias": False,
}


@dataclass(frozen=True)
class RopeScaling:
    """YaRN, applied to compressed (CSA and HCA) layers only; window layers rotate with plain rope_theta."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        _number("rope_scaling.factor", self.factor, 1.0)
        _number("rope_scaling.beta_fast", self.beta_fast, 1e-6)  # divided by
        _number("rope_scaling.beta_slow", self.beta_slow, 1e-6)
        original = self.original_max_position_embeddings
        integer("rope_scaling.original_max_position_embeddings", original, (1, 2**40))


@dataclass(frozen=True, kw_only=True)
class Config:
    """A validated V4 configuration; a wrong value raises ValueError naming its key."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    q_lora_rank: int
    o_groups: int
    n_routed_experts: int
    moe_intermediate_size: int
    compress_ratios: tuple[int, ...]  # one per layer, main layers first, then the MTP layers
    head_dim: int = 512
    qk_rope_head_dim: int = 64
    o_lora_rank: int = 1024
    sliding_window: int = 128
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 512
    n_shared_experts: int = 1
    num_experts_per_tok: int = 6
    num_hash_layers: int = 3
    scoring_func: str = "sqrtsoftplus"
    routed_scaling_factor: float = 1.5
    swiglu_limit: float = 10.0  # 0 = no clamp
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    compress_rope_theta: float = 160_000.0
    rope_scaling: RopeScaling | None = None
    overlap_ratios: tuple[int, ...] = (4,)  # ratios whose windows overlap and whose entries are indexed: CSA
    max_position_embeddings: int = 1_048_576
    num_nextn_predict_layers: int = 1
    initializer_range: float = 0.02
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    torch_dtype: str = "bfloat16"
    quantized: bool = True  # the checkpoint states the FP8 quantization_config
    expert_dtype: str = "fp8"  # what config.json says; the tensors decide

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type == "int":
                integer(name, value, LIMITS.get(name, DIMENSION))
            elif field.type == "float":
                _number(name, value)
                object.__setattr__(self, name, float(value))
            elif field.type == "str" and not isinstance(value, str):
                raise ValueError(f"{name} must be a string, got {value!r}")
            elif field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}")
            elif field.type == "tuple[int, ...]":
                _integers(name, value, (0 if name == "compress_ratios" else 1, 2**20))
                object.__setattr__(self, name, tuple(value))
        self._check_layers()
        self._check_shapes()
        self._check_choices()

    def _check_layers(self) -> None:
        layers, nextn = self.num_hidden_layers, self.num_nextn_predict_layers
        given = len(self.compress_ratios)
        if given == layers:
            object.__setattr__(self, "compress_ratios", self.compress_ratios + (0,) * nextn)
        elif given != layers + nextn:
            drafted = f" or {layers + nextn} (with num_nextn_predict_layers)" if nextn else ""
            raise ValueError(f"compress_ratios must have {layers} entries (num_hidden_layers){drafted}, got {given}")
        if any(self.compress_ratios[layers:]):
            raise NotImplementedError("compress_ratios of MTP layers must be 0: V4 drafts with window attention")
        if self.num_hash_layers > layers:
            raise ValueError(
                f"num_hash_layers must be at most {layers} (num_hidden_layers), got {self.num_hash_layers}"
            )

    def _check_shapes(self) -> None:
        heads, groups = self.num_attention_heads, self.o_groups
        rope, head, index = self.qk_rope_head_dim, self.head_dim, self.index_head_dim
        if heads % groups:
            raise ValueError(f"o_groups must divide num_attention_heads {heads}, got {groups}")
        if rope % 2 or rope > head:
            raise ValueError(f"qk_rope_head_dim must be even and at most head_dim {head}, got {rope}")
        if self.csa_layers and (index & (index - 1) or index < rope):
            raise ValueError(f"index_head_dim must be a power of two and >= qk_rope_head_dim {rope}, got {index}")
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok must be at most n_routed_experts {self.n_routed_experts},"
                f" got {self.num_experts_per_tok}"
            )
        layers = self.num_hidden_layers + self.num_nextn_predict_layers
        if layers * self.n_routed_experts > EXPERTS:
            raise ValueError(
                f"n_routed_experts must be at most {EXPERTS // layers} in {layers} layers, got {self.n_routed_experts}"
            )
        for name in ("rope_theta", "compress_rope_theta"):
            _number(name, getattr(self, name), 1.0)
        if self.rope_scaling and self.compress_rope_theta == 1:
            raise ValueError("compress_rope_theta must be above 1 with rope_scaling, got 1")

    def _check_choices(self) -> None:
        if self.scoring_func != "sqrtsoftplus":
            raise NotImplementedError(f"scoring_func {self.scoring_func!r}: V4 gates with sqrtsoftplus only")
        if self.n_shared_experts != 1:
            raise NotImplementedError(f"n_shared_experts {self.n_shared_experts}: V4 has one shared expert")
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            raise ValueError(f"rope_scaling must be a RopeScaling or None, got {self.rope_scaling!r}")
        if self.torch_dtype not in DTYPES:
            raise ValueError(f"torch_dtype must be one of {', '.join(DTYPES)}, got {self.torch_dtype!r}")
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        _integers("eos_token_id", self.eos_token_ids, (0, self.vocab_size - 1))
        if self.bos_token_id is not None:
            integer("bos_token_id", self.bos_token_id, (0, self.vocab_size - 1))

    # -- what a layer is ------------------------------------------------------------------------------------

    def overlap(self, ratio: int) -> bool:
        """Whether windows of this ratio overlap (CSA): their compressor has two halves and an indexer."""
        return ratio in self.overlap_ratios and ratio > 0

    def layer_kind(self, layer: int) -> str:
        """ "window", "csa" or "hca" for a main layer or, counted on from them, an MTP layer."""
        ratio = self.compress_ratios[layer]
        return "csa" if self.overlap(ratio) else "hca" if ratio else "window"

    def _layers(self, kind: str) -> tuple[int, ...]:
        return tuple(i for i in range(self.num_hidden_layers) if self.layer_kind(i) == kind)

    @property
    def window_layers(self) -> tuple[int, ...]:
        return self._layers("window")

    @property
    def csa_layers(self) -> tuple[int, ...]:
        return self._layers("csa")

    @property
    def hca_layers(self) -> tuple[int, ...]:
        return self._layers("hca")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        eos = self.eos_token_id
        return () if eos is None else eos if isinstance(eos, tuple) else (eos,)

    # -- reading and writing --------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Reads any of the three spellings; ValueError names a missing, wrong or contradictory key."""
        known = normalise(values)
        scaling = known.pop("rope_scaling", None)
        if scaling is not None:
            known["rope_scaling"] = RopeScaling(**scaling)
        for name, only in SINGLE_CHOICE.items():
            if (value := known.pop(name, only)) != only:
                raise NotImplementedError(f"{name} {value!r}: DeepSeek-V4 checkpoints have {only!r}")
        names = {field.name for field in fields(cls)}
        try:
            return cls(**{name: value for name, value in known.items() if name in names})
        except TypeError as error:  # the only one left: a required argument is absent
            raise ValueError(f"config: {str(error).split(': ')[-1]} must be given") from None

    @classmethod
    def from_file(cls, path: str | Path) -> Config:
        """Reads config.json, given itself or its directory; errors name the file."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a DeepSeek-V4 config.json")
        try:
            if path.stat().st_size > 2**24:
                raise ValueError("larger than 16 MiB")
            return cls.from_dict(json.loads(path.read_bytes()))
        except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
            raise ValueError(f"{path}: {error!s:.2000}") from None  # a value may be as long as the file
        except NotImplementedError as error:
            raise NotImplementedError(f"{path}: {error!s:.2000}") from None

    def to_dict(self) -> dict[str, Any]:
        """The official Hugging Face keys, ready for json.dump."""
        out: dict[str, Any] = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}
        out.update({field.name: getattr(self, field.name) for field in fields(self)})
        out.update(SINGLE_CHOICE)
        for name, value in out.items():
            if isinstance(value, tuple):
                out[name] = list(value)
        if self.rope_scaling is None:
            del out["rope_scaling"]
        else:
            out["rope_scaling"] = {"type": "yarn", **vars(self.rope_scaling)}
        if self.overlap_ratios == (4,):  # the official meaning; the key is ours
            del out["overlap_ratios"]
        if out.pop("quantized"):
            out["quantization_config"] = copy.deepcopy(QUANTIZATION)
        return out

    def without_mtp(self) -> Config:
        """The same main model with no draft layer: what a checkpoint saved by transformers holds."""
        ratios = self.compress_ratios[: self.num_hidden_layers]
        return replace(self, num_nextn_predict_layers=0, compress_ratios=ratios)

    @classmethod
    def preset(cls, name: str) -> Config:
        """The public "pro" and "flash" models."""
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls(rope_scaling=RopeScaling(16.0, 65536), expert_dtype="fp4", **PRESETS[name])


def integer(name: str, value: Any, limits: tuple[int, int]) -> None:
    """ValueError unless the value is an integer within both limits."""
    low, high = limits
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")


def _integers(name: str, values: Any, limits: tuple[int, int]) -> None:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{name} must be a list of integers, got {values!r}")
    for value in values:
        integer(name, value, limits)


def _number(name: str, value: Any, low: float = 0.0) -> None:
    if type(value) not in (int, float) or not low <= value <= 1e12:  # exact for integers of any size; no for NaN
        raise ValueError(f"{name} must be a number from {low:g} to 1e12, got {value!r}")
