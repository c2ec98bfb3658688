"""Operators of torch-npu and of vendors' packages, found by name: what stands between our kernels and the reference.

csrc/plan/vendor.cpp has the table: each operator with its schema, and why it is used or not. Here is how those that
are used are called. They run when our own kernel does not take the arguments or cannot be launched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from v4npu import _C, derivatives

Served = Callable[[], Any]


def registered() -> list[str]:
    """The operators of the table that torch knows; with the schema of the table, where it has one."""
    return [o.name for o in _C.vendor_operators() if _has(o)]


def _has(operator: _C.VendorOperator) -> bool:
    schemas = [str(s) for s in torch._C._jit_get_schemas_for_operator(operator.name)]
    return operator.name + operator.schema in schemas if operator.schema else bool(schemas)


def serving(op: str, *args: Any) -> Served | None:
    """The call of a vendor's operator that does what `op` does with these arguments, if there is one.

    Not when a derivative is wanted: the reference is differentiable.
    """
    if args[0].device.type != torch._C._get_privateuse1_backend_name():
        return None
    if derivatives.recorded([a for a in args if isinstance(a, Tensor)]):
        return None
    for operator in _C.vendor_operators():
        if operator.used and operator.op == op and _has(operator):
            return _CALLS[operator.name](*args)
    return None


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Served | None:
    if weight is None or not x.dtype == weight.dtype == torch.float32 or x.numel() == 0:
        return None
    return lambda: torch.ops.npu.npu_rms_norm(x, weight, eps)[0]


_CALLS: dict[str, Callable[..., Served | None]] = {"npu::npu_rms_norm": _rms_norm}
