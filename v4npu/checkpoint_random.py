"""Random tensors of the official layout, one at a time, of the size that trained ones have."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from v4npu.checkpoint_names import Spec, layout, scale_name
from v4npu.checkpoint_write import save
from v4npu.model.config import Config
from v4npu.reference.formats import quantise_weight_fp4, quantise_weight_fp8

FORMATS = {"fp4": torch.int8, "fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16, "fp32": torch.float32}
ROWS = 4096  # of the hash table drawn at once


def random(
    path: str | Path,
    config: Config,
    seed: int = 0,
    expert_dtype: str = "fp4",
    attention_dtype: str = "fp8",
    mtp: bool = True,
) -> None:
    """Writes a random checkpoint of any shape, tensor by tensor, with weights of plausible size.

    Args:
        expert_dtype: "fp4", "fp8", "bf16" or "fp32".
        attention_dtype: "fp8", "bf16" or "fp32", for every linear but the routed experts. With "fp32" the
            norms, embeddings and the like are float32 too.
        mtp: whether to write the draft layers of `config`.
    """
    config = config if mtp else config.without_mtp()
    config = replace(config, expert_dtype=expert_dtype, quantized=attention_dtype == "fp8")
    save(path, config, random_tensors(config, seed, expert_dtype, attention_dtype))


def random_tensors(
    config: Config, seed: int = 0, expert_dtype: str = "fp4", attention_dtype: str = "fp8"
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors in layout order; each depends on the seed and its own name only."""
    for key, given, allowed in (
        ("expert_dtype", expert_dtype, tuple(FORMATS)),
        ("attention_dtype", attention_dtype, tuple(FORMATS)[1:]),
    ):
        if given not in allowed:
            choices = ", ".join(allowed)
            raise ValueError(f"v4npu.checkpoint.random: {key} must be one of {choices}, got {given!r}")
    plain = torch.float32 if attention_dtype == "fp32" else torch.bfloat16
    for name, spec in layout(config).items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))  # it takes 32 bits
        if spec.kind == "ids":
            yield name, _expert_ids(spec.shape, config.n_routed_experts, generator)
            continue
        value = _draw(name, spec, generator)
        stored = {"linear": attention_dtype, "expert": expert_dtype}.get(spec.kind)
        if stored in ("fp4", "fp8"):
            weight, scale = (quantise_weight_fp4 if stored == "fp4" else quantise_weight_fp8)(value)
            yield name, weight
            yield scale_name(name), scale
        elif spec.kind == "fp32":
            yield name, value
        else:
            yield name, value.to(plain if stored is None else FORMATS[stored])


def _draw(name: str, spec: Spec, generator: torch.Generator) -> Tensor:
    noise = torch.randn(spec.shape, generator=generator, device="cpu")
    if spec.kind == "norm":
        return noise.mul_(0.1).add_(1.0)
    leaf = name.rpartition(".")[2]
    if leaf.endswith("_scale"):
        return noise.mul_(0.02).add_(0.1)  # mHC gates start small: the base decides most of the mixing
    if leaf == "bias":
        return noise.mul_(0.05)  # of the order of the score differences it is to even out
    if leaf in ("ape", "attn_sink") or leaf.endswith("_base") or name == "embed.weight":
        return noise.mul_(0.5)
    return noise.mul_(spec.shape[-1] ** -0.5)


def _expert_ids(shape: tuple[int, ...], experts: int, generator: torch.Generator) -> Tensor:
    """Distinct experts for every token."""
    out = torch.empty(shape, dtype=torch.int64, device="cpu")
    for rows in out.split(ROWS):
        rows.copy_(torch.rand(len(rows), experts, generator=generator, device="cpu").argsort(-1)[:, : shape[1]])
    return out
