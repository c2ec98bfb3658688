"""Gradients of a whole model: right, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import v4npu
from v4npu import checkpoint
from v4npu.model import Model
from v4npu.testing import models

IDS = torch.randint(0, 48, (3, 20), generator=torch.Generator().manual_seed(0))
REFUSED = r"no gradient passes .* torch\.no_grad\(\), .* requires_grad_\(False\)"


@pytest.fixture
def model() -> Model:
    return models.model(dtype="float64", numerics="exact").requires_grad_()


def gradients(model: Model, logits: Tensor) -> dict[str, Tensor]:
    """Of a loss to which every logit contributes its own share."""
    model.zero_grad()
    weights = torch.arange(logits.numel(), dtype=logits.dtype).cos().view_as(logits)
    (logits * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_mask_passes_on_what_the_same_call_without_it_does(model: Model) -> None:
    wanted, mask = gradients(model, model(IDS)), torch.ones_like(IDS)
    torch.testing.assert_close(gradients(model, model(IDS, attention_mask=mask)), wanted)
    last = gradients(model, model(IDS, last_only=True))
    torch.testing.assert_close(gradients(model, model(IDS, attention_mask=mask, last_only=True)), last)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_padded_batch_pass_on_what_they_do_alone(model: Model, side: str) -> None:
    lengths, mask = (20, 7, 13), torch.zeros_like(IDS)
    spans = [slice(20 - n, 20) if side == "left" else slice(0, n) for n in lengths]
    for b, span in enumerate(spans):
        mask[b, span] = 1
    logits = model(IDS, attention_mask=mask)
    alone = [model(IDS[b : b + 1, span])[0] for b, span in enumerate(spans)]
    for b, span in enumerate(spans):
        torch.testing.assert_close(logits[b, span], alone[b])
    packed = torch.cat([logits[b, span] for b, span in enumerate(spans)])
    torch.testing.assert_close(gradients(model, packed), gradients(model, torch.cat(alone)))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS, attention_mask=mask), logits.detach())


def test_no_gradient_is_lost_in_a_cache(model: Model) -> None:
    cache, draft = model.new_cache(3), model.new_cache(3, draft=True)
    streams = model.streams(IDS)
    for call in (
        lambda: model(IDS, cache=cache),
        lambda: model.streams(IDS, cache=cache),
        lambda: model(IDS, cache=cache, attention_mask=torch.ones_like(IDS)),
        lambda: model.draft(streams, IDS, cache=draft),
        lambda: model.extend(cache.sequences, IDS.tolist()),
    ):
        with pytest.raises(ValueError, match=f"cache: {REFUSED}"):
            call()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=f"cache: {REFUSED}"):
        model.draft(streams, IDS, cache=draft)  # streams want one
    assert not model(IDS, cache=cache).requires_grad
    assert not model.draft(streams.detach(), IDS, cache=draft)[0].requires_grad
    assert cache.lengths == draft.lengths == [20] * 3
    model.requires_grad_()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            model(IDS[:, :1], cache=cache)
            model.draft(streams[:, :1], IDS[:, :1], cache=draft)
    assert cache.lengths == draft.lengths == [22] * 3


def test_one_token_at_a_time_refuses_gradients() -> None:
    strict = models.model(dtype="float64", numerics="exact", strict=True)
    assert strict.one_by_one and not strict(IDS).requires_grad
    strict.requires_grad_()
    with pytest.raises(ValueError, match=f"strict: {REFUSED}"):
        strict(IDS)
    with torch.no_grad():
        strict(IDS)


def test_tangents_reach_the_logits_and_are_not_lost_in_a_cache(model: Model) -> None:
    model.requires_grad_(False)
    weights = dict(model.named_parameters())
    name = "layers.1.attn.kv_norm.weight"
    step = torch.randn(weights[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def logits(weight: Tensor, **options: Any) -> Tensor:
        return torch.func.functional_call(model, {name: weight}, (IDS,), options)

    point, eps = weights[name].detach(), 1e-6
    _, tangent = torch.func.jvp(logits, (point,), (step,))
    with torch.no_grad():
        wanted = (logits(point + eps * step) - logits(point - eps * step)) / (2 * eps)
    torch.testing.assert_close(tangent, wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max().item())
    masked = torch.func.jvp(lambda w: logits(w, attention_mask=torch.ones_like(IDS)), (point,), (step,))[1]
    torch.testing.assert_close(masked, tangent)
    with pytest.raises(ValueError, match=f"cache: {REFUSED}"):
        torch.func.jvp(lambda w: logits(w, cache=model.new_cache(3)), (point,), (step,))


def test_training_under_autocast_is_training_without() -> None:
    model = models.model(dtype="float32", numerics="exact").requires_grad_()
    wanted = gradients(model, model(IDS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(IDS)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(gradients(model, logits), wanted, rtol=0, atol=0)


def test_official_numerics_of_quantised_weights_want_no_gradients(tmp_path: Path) -> None:
    official = models.model(dtype="float32")
    with pytest.raises(ValueError, match=r'requires_grad_: numerics must be "exact" with quantised weights'):
        official.requires_grad_()
    assert not any(p.requires_grad for p in official.requires_grad_(False).parameters())
    name = "layers.1.attn_norm.weight"
    weight = dict(official.named_parameters())[name].detach()
    with pytest.raises(NotImplementedError, match=r"act_quant: float8 holds no tangents; exact numerics"):
        torch.func.jvp(lambda w: torch.func.functional_call(official, {name: w}, (IDS,)), (weight,), (weight,))
    checkpoint.random(tmp_path / "a", models.TINY, expert_dtype="bf16", attention_dtype="bf16")
    plain = v4npu.load(tmp_path / "a", dtype="float32").requires_grad_()
    assert all(g.isfinite().all() and g.any() for g in gradients(plain, plain(IDS)).values())
