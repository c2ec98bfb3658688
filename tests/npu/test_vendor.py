"""Operators of torch-npu that stand between our kernels and the reference: the table against the real wheel."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from test_nano import generate

import v4npu
from v4npu import _C, fakes, vendor


@dataclasses.dataclass
class Operator:
    name: str
    schema: str


def test_schemas_are_those_of_the_wheel() -> None:
    operators = _C.vendor_operators()
    assert vendor.registered() == [o.name for o in operators if o.schema]
    assert {o.name for o in operators if o.used} == set(vendor._CALLS)
    assert not vendor._has(Operator("npu::npu_rms_norm", "(Tensor x) -> Tensor"))  # type: ignore[arg-type]


def test_what_is_not_used_is_named_with_the_reason() -> None:
    for operator in _C.vendor_operators():
        reason = v4npu.explain(operator.op, "npu").reason
        reference = v4npu.explain(operator.op, "npu").variant == "reference"
        named = f"{operator.name} is not used: {operator.why}" in reason
        assert named == (reference and bool(operator.schema))


def test_meta_kernels_give_the_shapes_of_ours() -> None:
    x, weight = torch.empty(3, 5, 8, device="meta"), torch.empty(8, device="meta")
    y, _ = torch.ops.npu.npu_rms_norm(x, weight, 1e-6)
    ours = fakes.rms_norm(x, weight, 1e-6)
    assert (y.shape, y.dtype) == (ours.shape, ours.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_emulated_function(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 5, 8).to(dtype), torch.randn(5, 8).to(dtype)
    y, inverse = torch.ops.npu.npu_rms_norm(x.npu(), weight.npu(), 1e-3)
    exact = torch.rsqrt(x.double().square().mean((1, 2), keepdim=True) + 1e-3)
    torch.testing.assert_close(inverse.cpu().double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(y.cpu(), (x.double() * exact * weight.double()).to(dtype), rtol=1e-6, atol=1e-6)


WITHOUT_KERNELS = """
import json, torch, v4npu
from v4npu import device, ops, reference
device.resolve("npu")
x, w = torch.randn(7, 64), torch.randn(64)
found = {}
with v4npu.fallback("error"):
    y = ops.rms_norm(x.npu(), w.npu(), 1e-6).cpu()
    found["error"] = (y.double() - reference.rms_norm(x.double(), w, 1e-6)).abs().max().item()
    for name, args in (("no weight", (x, None)), ("bfloat16", (x.bfloat16(), w.bfloat16()))):
        try:
            ops.rms_norm(*(None if a is None else a.npu() for a in args), 1e-6)
        except RuntimeError as error:
            found[name] = str(error)
explained = v4npu.explain("rms_norm", "npu")
found["variant"], found["reason"], found["doctor"] = explained.variant, explained.reason, str(v4npu.doctor())
print(json.dumps(found))
"""


def test_the_order_without_compiled_kernels() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERNELS], env={**os.environ, "V4NPU_ASCEND_KERNELS": ""}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["variant"] == "npu::npu_rms_norm" and found["error"] < 2e-6
    assert "ascendc: no npu that it can be launched on: no compiled kernels" in found["reason"]
    assert "float32 with a weight" in found["reason"] and "npu::npu_rms_norm" in found["doctor"]
    assert 'v4npu.fallback is "error"' in found["no weight"] and 'v4npu.fallback is "error"' in found["bfloat16"]


def test_nano_without_compiled_kernels() -> None:
    wanted = generate("cpu", "float32", "exact", 4)["text"]
    found = generate("npu:0", "float32", "exact", 4, V4NPU_ASCEND_KERNELS="")
    assert found["text"] == wanted
    assert "rms_norm" not in found["reference"] and "compressor" in found["reference"]
