"""Weights put into a model one by one: what is missing until then, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from v4npu.checkpoint_names import scale_name
from v4npu.checkpoint_random import random_tensors
from v4npu.model import Config, Model
from v4npu.model.linear import QUANTISED
from v4npu.testing import models

EXPERT = "layers.1.ffn.experts.2"
IDS = torch.arange(12)[None]


def empty(config: Config = models.TINY, dtype: torch.dtype = torch.bfloat16) -> Model:
    return Model(config, dtype=dtype)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Of models.model(dtype="bfloat16"): packed experts, FP8 elsewhere."""
    return dict(random_tensors(models.TINY))


def of_layer(name: str) -> list[str]:
    """The tensors that are kept in one with this: of all experts."""
    head, _, tail = name.partition(".experts.")
    return [f"{head}.experts.{e}.{tail.partition('.')[2]}" for e in range(4)] if tail else [name]


@pytest.mark.parametrize("expert", ["fp4", "fp8", "bf16"])
def test_what_is_missing_is_what_is_to_be_installed(expert: str) -> None:
    stored, model = dict(random_tensors(models.TINY, expert_dtype=expert)), empty()
    left = {name for name in stored if not name.endswith(".scale")}
    assert sorted(model.missing()) == sorted(left)
    for name in sorted(left):
        model.install(name, stored[name])
        left.remove(name)
        left |= {scale for e in of_layer(name) if (scale := scale_name(e)) in stored}  # wanted once it is known to be
        assert sorted(model.missing()) == sorted(left)
    for name in sorted(left):
        model.install(name, stored[name])
        left.remove(name)
        assert sorted(model.missing()) == sorted(left)


@torch.no_grad()
def test_installed_weights_say_what_loaded_ones_do(tensors: dict[str, Tensor]) -> None:
    model = empty()
    for name, tensor in tensors.items():
        model.install(name, tensor)
    assert torch.equal(model(IDS), models.model(dtype="bfloat16")(IDS))


@torch.no_grad()
def test_a_missing_scale_is_asked_for(tensors: dict[str, Tensor]) -> None:
    model, left_out = empty(), "layers.2.attn.wq_b.scale"
    for name, tensor in tensors.items():
        if name != left_out:
            model.install(name, tensor)
    assert model.missing() == [left_out]
    with pytest.raises(ValueError, match="a quantised weight needs its scale"):
        model(IDS)


FITS_NOT = [
    ("norm", torch.ones(64), "norm: this model has no such tensor"),
    ("layers.9.attn_norm.weight", torch.ones(64), "no such tensor"),
    ("layers.0.attn_norm.scale", torch.ones(64), "no such tensor"),
    ("layers.1.ffn.experts.4.w1.weight", torch.ones(32, 64), "layers.1.ffn.experts.4.w1.weight: this model has no"),
    ("norm.weight", torch.ones(63), r"norm.weight must have shape \[64\], got \[63\]"),
    (f"{EXPERT}.w1.weight", torch.ones(4, 32, 64), r"w1.weight must have shape \[32, 64\], got \[4, 32, 64\]"),
    ("norm.weight", torch.ones(64, dtype=torch.int64), "norm.weight must be torch.bfloat16, got torch.int64"),
    ("norm.weight", torch.ones(64).to(torch.float8_e4m3fn), "norm.weight must be torch.bfloat16, got torch.float8"),
    ("head.weight", torch.ones(48, 64).to(torch.float8_e4m3fn), "head.weight must be torch.bfloat16, got torch.float8"),
    ("layers.1.ffn.gate.weight", torch.ones(4, 64).to(torch.float8_e4m3fn), "gate.weight must be torch.bfloat16, got"),
    ("layers.0.ffn.gate.tid2eid", torch.ones(48, 2), "tid2eid must be torch.int64, got torch.float32"),
    ("layers.0.attn.wq_a.scale", torch.ones(1, 1), "scale must be float8_e8m0fnu, got torch.float32"),
    ("layers.0.attn.wq_a.scale", torch.ones(1, 1).to(torch.float8_e8m0fnu), "install the weight before its scale"),
]


@pytest.mark.parametrize(("name", "tensor", "message"), FITS_NOT, ids=lambda v: v if isinstance(v, str) else "")
def test_what_does_not_fit_is_refused(name: str, tensor: Tensor, message: str) -> None:
    model = empty()
    before = model.missing()
    with pytest.raises(ValueError, match=message) as caught:
        model.install(name, tensor)
    assert str(caught.value).startswith(name) and model.missing() == before


@pytest.mark.parametrize(("kind", "kept"), [("fp4", torch.int8), ("fp8", torch.float8_e4m3fn)])
def test_experts_are_of_one_kind(kind: str, kept: torch.dtype) -> None:
    model, name = empty(), f"{EXPERT}.w1.weight"
    model.install(name, dict(random_tensors(models.TINY, expert_dtype=kind))[name])
    with pytest.raises(
        ValueError, match=rf"0\.w1\.weight must be {kept} like the layer's other experts, got torch\.bf"
    ):
        model.install(name.replace("experts.2", "experts.0"), torch.ones(32, 64, dtype=torch.bfloat16))


def test_a_plain_weight_takes_the_place_of_a_quantised_one() -> None:
    model, weight = models.model(dtype="bfloat16"), torch.randn(32, 64)
    old = model.layers[0].attn.wq_a.weight
    assert old.dtype in QUANTISED and old.shape == weight.shape
    model.install("layers.0.attn.wq_a.weight", weight)
    assert torch.equal(model.layers[0].attn.wq_a.weight, weight.bfloat16())


def test_fp4_is_of_whole_groups() -> None:
    model = empty(replace(models.TINY, moe_intermediate_size=48, quantized=False))
    with pytest.raises(ValueError, match=r"w2\.weight: FP4 needs a last dimension that is a multiple of 32, got 48"):
        model.install(f"{EXPERT}.w2.weight", torch.zeros(64, 24, dtype=torch.int8))
