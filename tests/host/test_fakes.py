"""Tensors without values are checked as the CPU's are: on the meta device, and of FakeTensorMode, as torch.compile and
export make them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from test_checks import VALID, WRONG
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import v4npu


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("place", ["meta", "fake"])
def test_the_wrong_call_is_refused_as_on_the_cpu(place: str, records: bool) -> None:
    mode = FakeTensorMode() if place == "fake" else None
    for op, arg, value, message in WRONG:
        call = {**VALID[op], arg: value}
        for name, v in call.items():
            if isinstance(v, torch.Tensor):
                call[name] = mode.from_tensor(v) if mode else on_meta(v)
                call[name].requires_grad_(records and v.dtype == torch.float32)
        with mode or nullcontext(), pytest.raises(ValueError) as caught:
            getattr(torch.ops.v4npu, op)(**call)
        assert str(caught.value).startswith(f"v4npu.{op}: {message}")


@pytest.mark.parametrize("op", VALID)
def test_the_valid_call_gives_shapes(op: str) -> None:
    call: dict[str, Any] = {k: on_meta(v) if isinstance(v, torch.Tensor) else v for k, v in VALID[op].items()}
    made, wanted = (getattr(torch.ops.v4npu, op)(**given) for given in (call, VALID[op]))
    for out, of in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (made, wanted)), strict=True):
        assert (out.shape, out.dtype, out.device.type) == (of.shape, of.dtype, "meta")


def test_a_symbolic_size_is_checked_once_it_is_known() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        x = mode.from_tensor(torch.empty(5, 8), static_shapes=False)
        assert v4npu.ops.rms_norm(x, torch.empty(8), 1e-6).shape == x.shape
