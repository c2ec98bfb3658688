"""Putting checkpoint tensors into a model, under their official names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from v4npu.model.linear import QUANTISED, Linear, scale_shape

if TYPE_CHECKING:
    from v4npu.model.model import Model

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(w[123])\.(weight|scale)")
# Weights of wide products keep the checkpoint's precision; rounding them to the model's dtype would change the answer.
_KEPT = re.compile(r"(\.compressor\.(wkv|wgate)|\.gate|^head|norm)\.weight$")


def _target(model: Model, name: str) -> tuple[nn.Module, str, int | None]:
    """(module, attribute, expert) that an official name means."""
    kept, expert = name, None
    if match := _EXPERT.fullmatch(name):
        kept, expert = f"{match[1]}.{match[3]}.{match[4]}", int(match[2])
    path, _, attribute = kept.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"{name}: this model has no such tensor") from None
    known = attribute in module._parameters or (attribute == "scale" and isinstance(module, Linear))
    if not known or (expert is not None and not 0 <= expert < model.config.n_routed_experts):
        raise ValueError(f"{name}: this model has no such tensor")
    return module, attribute, expert


def _kept_dtype(model: Model, name: str, module: nn.Module, attribute: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a tensor stored in `dtype` is kept in."""
    if attribute == "scale":
        if dtype != torch.float8_e8m0fnu:
            raise ValueError(f"{name} must be float8_e8m0fnu, got {dtype}")
        return dtype
    if dtype in QUANTISED and isinstance(module, Linear) and not _KEPT.search(name):
        return dtype
    wanted = module._parameters[attribute].dtype  # type: ignore[union-attr]
    if wanted in QUANTISED:  # what is there already: a plain weight may take its place
        wanted = model.dtype
    if dtype.is_floating_point != wanted.is_floating_point or dtype in QUANTISED:
        raise ValueError(f"{name} must be {wanted}, got {dtype}")
    return torch.promote_types(dtype, wanted) if _KEPT.search(name) else wanted


def _expected_shape(module: nn.Module, attribute: str, dtype: torch.dtype) -> tuple[int, ...]:
    if not isinstance(module, Linear):
        return tuple(module._parameters[attribute].shape)  # type: ignore[union-attr]
    if attribute == "scale":
        return scale_shape(module.weight, module.shape)
    *lead, k = module.shape
    return (*lead, k // 2) if dtype == torch.int8 else module.shape


def install(model: Model, name: str, tensor: Tensor) -> None:
    """See Model.install."""
    place(model, name, tensor.dtype, tuple(tensor.shape)).copy_(tensor.detach())


def adopt(model: Model, name: str, tensor: Tensor) -> Tensor:
    """Makes `tensor` itself the model's; a converted copy where the model keeps another dtype. What the model has.

    The name of experts' tensors has no number: `tensor` is that of all of them, and may be a part of a larger one.
    """
    module, attribute, _ = _target(model, name)
    kept = _kept_dtype(model, name, module, attribute, tensor.dtype)
    expected = _expected_shape(module, attribute, tensor.dtype)
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} must have shape {list(expected)}, got {list(tensor.shape)}")
    return _put(module, attribute, tensor.detach().to(kept))


def place(model: Model, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor in the model where `name` belongs, to be filled from one of this dtype and shape."""
    module, attribute, expert = _target(model, name)
    kept = _kept_dtype(model, name, module, attribute, dtype)
    if attribute == "scale" and isinstance(module, Linear) and module.weight.is_meta:
        raise ValueError(f"{name}: install the weight before its scale")
    expected = _expected_shape(module, attribute, dtype)
    one = expected[1:] if expert is not None else expected
    if shape != one:
        raise ValueError(f"{name} must have shape {list(one)}, got {list(shape)}")
    if attribute == "weight" and dtype == torch.int8 and expected[-1] % 16:
        raise ValueError(f"{name}: FP4 needs a last dimension that is a multiple of 32, got {2 * expected[-1]}")
    if expert is None:
        return _put(module, attribute, model.memory.empty(expected, kept))
    assert isinstance(module, Linear)
    installed: dict[str, set[int]] = module.__dict__.setdefault("installed", {})
    done = installed.setdefault(attribute, set())
    if not done:
        _put(module, attribute, model.memory.empty(expected, kept))
    stacked = getattr(module, attribute)
    if stacked.dtype != kept:
        raise ValueError(f"{name} must be {stacked.dtype} like the layer's other experts, got {kept}")
    done.add(expert)
    return stacked.data[expert]


def _put(module: nn.Module, attribute: str, tensor: Tensor) -> Tensor:
    if attribute in module._parameters:
        old = module._parameters[attribute]
        floating = tensor.is_floating_point() and tensor.dtype not in QUANTISED
        trains = old is not None and old.requires_grad and floating and not tensor.is_inference()
        setattr(module, attribute, nn.Parameter(tensor, requires_grad=trains))
    else:
        setattr(module, attribute, tensor)
    return tensor


def missing(model: Model) -> list[str]:
    """See Model.missing."""
    linears = [(path, module) for path, module in model.named_modules() if isinstance(module, Linear)]
    absent = [name for name, p in model.named_parameters() if p.is_meta]
    absent += [f"{path}.scale" for path, module in linears if module.quantised and module.scale is None]
    names = [official for name in absent for official in _of_each(model, name)]
    for path, module in linears:
        for attribute, done in module.__dict__.get("installed", {}).items():
            names += [name for e, name in enumerate(_of_each(model, f"{path}.{attribute}")) if e not in done]
    return names


def _of_each(model: Model, name: str) -> list[str]:
    """The official names of what the model keeps under this one: of all experts, or the name itself."""
    prefix, experts, rest = name.partition(".experts.")
    return [f"{prefix}{experts}{e}.{rest}" for e in range(model.config.n_routed_experts)] if experts else [name]
