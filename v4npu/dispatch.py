"""Registers, for every operator that the extension declares, what Python provides.

It is Python's part because an exception of the reference that passed through torch's stable C interface would lose
its type and text. The default kernel is check, vendor's operator (vendor.py), fallback policy, reference: it serves any
device without a kernel of its own. The autograd kernel runs the differentiable reference when a derivative is wanted
and steps aside otherwise. Fake kernels check, and give shapes. `v4npu_reference` is how a native kernel hands on what
it does not take. No operator has keyword-only arguments: all of them arrive by position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from v4npu import _C, derivatives, device, fakes, reference, vendor

Kernel = Callable[..., Any]
_libraries: list[torch.library.Library] = []  # a registration lives as long as its library object


def _python(name: str) -> Kernel:
    """The vendor's operator, or the reference."""
    compute = getattr(reference, name)

    def kernel(*args: Any) -> Any:
        if served := vendor.serving(name, *args):
            return served()
        device.note_reference(name, args[0].device.type)
        with torch._C._DisableAutocast():  # each step's dtype is the contract's
            return compute(*args)

    return kernel


def _default(name: str) -> Kernel:
    check, serve = getattr(torch.ops.v4npu_check, name), _python(name)

    def kernel(*args: Any) -> Any:
        check(*args)
        return serve(*args)

    return kernel


def _reference(name: str) -> Kernel:
    """For a launcher that has checked the arguments and does not take them; C++ throws again what is noted here."""
    serve = _python(name)

    def kernel(*args: Any) -> Any:
        try:
            return serve(*args)
        except Exception as error:
            _C.note_reference_error(isinstance(error, ValueError), str(error))
            raise

    return kernel


def _autograd(name: str, default: Kernel) -> Kernel:
    op, check = getattr(torch.ops.v4npu, name), getattr(torch.ops.v4npu_check, name)
    written = [(i, a.name) for i, a in enumerate(op.default._schema.arguments) if a.is_write]

    def kernel(*args: Any) -> Any:
        if derivatives.recorded([a for a in args if isinstance(a, Tensor)]):
            for i, arg in written:
                if i < len(args) and isinstance(args[i], Tensor) and args[i].requires_grad:
                    check(*args)
                    raise ValueError(f"v4npu.{name}: {arg} is written to, so it must not require grad")
            return default(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return kernel


def _fake(name: str) -> Kernel:
    check, compute = getattr(torch.ops.v4npu_check, name), getattr(fakes, name)

    def kernel(*args: Any) -> Any:
        check(*args)
        return compute(*args)

    return kernel


def _fake_check(name: str) -> Kernel:
    """The check of tensors without values, made of the CPU's; symbolic sizes, which C++ cannot read, pass."""
    op = getattr(torch.ops.v4npu_check, name).default
    names, cpu = [a.name for a in op._schema.arguments], torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def kernel(*args: Any) -> None:
        like: tuple[str, torch.device] | None = None
        for arg, t in zip(names, args, strict=False):
            if not isinstance(t, Tensor):
                continue
            like = like or (arg, t.device)
            if t.device != like[1]:  # which the meta tensors below do not show
                raise ValueError(f"v4npu.{name}: {arg} must be on {like[1]} like {like[0]}, got {t.device}")
        if not any(map(_symbolic, args)):
            with torch._C._DisableTorchDispatch():  # real meta tensors, in the midst of fake ones
                op.redispatch(cpu, *map(_on_meta, args))

    return kernel


def _batched_check(name: str) -> Kernel:
    """For per-sample gradients, torch.func.vmap of grad: the samples are of one shape, and each has values."""
    check = getattr(torch.ops.v4npu_check, name)

    def kernel(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[None, None]:
        for i in range(info.batch_size):
            check(*(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)))
        return None, None

    return kernel


def _symbolic(arg: Any) -> bool:
    if isinstance(arg, Tensor):
        return arg._has_symbolic_sizes_strides
    return isinstance(arg, (torch.SymInt, torch.SymFloat, torch.SymBool))


def _on_meta(arg: Any) -> Any:
    if not isinstance(arg, Tensor) or arg.layout != torch.strided:
        return arg
    return torch.empty_strided(arg.shape, arg.stride(), dtype=arg.dtype, device="meta")


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
        torch.library.register_fake(f"v4npu_check::{name}", _fake_check(name), lib=checks)
        torch.library.register_vmap(f"v4npu_check::{name}", _batched_check(name), lib=checks)


register()
