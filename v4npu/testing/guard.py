"""Outputs of a kernel in poisoned memory with guard words behind and before them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GUARD_BYTES = 256
_GUARD = 0xA5


class _Guarded(TorchDispatchMode):
    """Serves aten::empty and empty_like out of the middle of larger buffers; floating point ones filled with NaN.

    `seen(tensor, True)` tells of each of them, `seen(tensor, False)` of what any other operator returned.
    """

    def __init__(self, seen: Callable[[Tensor, bool], None] | None) -> None:
        super().__init__()
        self.buffers: list[Tensor] = []
        self._seen = seen or (lambda tensor, empty: None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.empty_like.default:
            return self._empty(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        if func is torch.ops.aten.empty.memory_format:
            return self._empty(args[0], kwargs.get("dtype") or torch.get_default_dtype())
        if func is torch.ops.aten.new_empty.default:
            return self._empty(args[1], kwargs.get("dtype") or args[0].dtype)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            self._seen(out, False)
        return out

    def _empty(self, shape: Any, dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        buffer = torch.full((size + 2 * GUARD_BYTES,), _GUARD, dtype=torch.uint8)
        self.buffers.append(buffer)
        out = buffer[GUARD_BYTES : GUARD_BYTES + size].view(dtype).view(list(shape))
        if dtype.is_floating_point and dtype.itemsize > 1:
            out.fill_(math.nan)
        self._seen(out, True)
        return out


def run_guarded(
    op: str,
    args: tuple[Any, ...],
    key: torch._C.DispatchKey = torch._C.DispatchKey.CPU,
    seen: Callable[[Tensor, bool], None] | None = None,
) -> tuple[tuple[Tensor, ...], int, bool]:
    """Runs the kernel registered for `key`: its results, how many buffers it asked for, whether all guards stand."""
    overload = getattr(torch.ops.v4npu, op).default
    below = torch._C.DispatchKeySet(key)
    mode = _Guarded(seen)
    with mode:
        out = overload.redispatch(below, *args)  # past the mode itself, which then sees what the kernel calls
    intact = all(
        bool((b[:GUARD_BYTES] == _GUARD).all() and (b[len(b) - GUARD_BYTES :] == _GUARD).all()) for b in mode.buffers
    )
    return (out if isinstance(out, tuple) else (out,)), len(mode.buffers), intact
