"""Registers, for every operator that the extension declares, what Python provides.

It is Python's part because an exception of the reference that passed through torch's stable C interface would lose
its type and text. The default kernel is check, vendor's operator (vendor.py), fallback policy, reference: it serves any
device without a kernel of its own. The autograd kernel runs the differentiable reference when a gradient is wanted and
steps aside otherwise. Fake kernels give shapes. `v4npu_reference` is how a native kernel hands on what it does not
take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from v4npu import _C, device, fakes, reference, vendor

Kernel = Callable[..., Any]
_libraries: list[torch.library.Library] = []  # a registration lives as long as its library object


def _default(name: str) -> Kernel:
    check, compute = getattr(torch.ops.v4npu_check, name), getattr(reference, name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        check(*args, **kwargs)
        if served := vendor.serving(name, *args, **kwargs):
            return served()
        device.note_reference(name, args[0].device.type)
        return compute(*args, **kwargs)

    return kernel


def _reference(name: str) -> Kernel:
    """For a launcher that has checked the arguments and does not take them; C++ throws again what is noted here."""
    compute = getattr(reference, name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        try:
            if served := vendor.serving(name, *args, **kwargs):
                return served()
            device.note_reference(name, args[0].device.type)
            return compute(*args, **kwargs)
        except Exception as error:
            _C.note_reference_error(isinstance(error, ValueError), str(error))
            raise

    return kernel


def _autograd(name: str, default: Kernel) -> Kernel:
    op = getattr(torch.ops.v4npu, name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        tensors = (a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return default(*args, **kwargs)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args, **kwargs)

    return kernel


def _fake(name: str) -> Kernel:
    compute = getattr(fakes, name)
    names = [a.name for a in getattr(torch.ops.v4npu, name).default._schema.arguments]

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        (first, like), *others = ((k, t) for k, t in given.items() if isinstance(t, Tensor))
        for arg, t in others:  # one meta tensor among the CPU's arrives here, past the check
            if t.device != like.device:
                raise ValueError(f"v4npu.{name}: {arg} must be on {like.device} like {first}, got {t.device}")
        return compute(*args, **kwargs)

    return kernel


def _no_check(*args: Any, **kwargs: Any) -> None:
    """Fake tensors may have symbolic sizes, which the C++ checks cannot read."""


def register() -> None:
    """Registers everything; called once, when the package is imported."""
    library = torch.library.Library("v4npu", "IMPL")
    checks = torch.library.Library("v4npu_check", "FRAGMENT")
    references = torch.library.Library("v4npu_reference", "DEF")
    _libraries.extend((library, checks, references))
    for name, schema in zip(_C.op_names(), _C.schemas(), strict=True):
        default = _default(name)
        library.impl(name, default, "CompositeExplicitAutograd")
        references.define(schema)
        references.impl(name, _reference(name), "CompositeExplicitAutograd")
        library.impl(name, _autograd(name, default), "Autograd")
        torch.library.register_fake(f"v4npu::{name}", _fake(name), lib=library)
        torch.library.register_fake(f"v4npu_check::{name}", _no_check, lib=checks)


register()
