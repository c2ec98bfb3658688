"""A pass of the bundled model on the emulated GPU: a kernel for every operator that it calls, and the CPU's token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import v4npu
from v4npu import ops
from v4npu.testing.compare import calc_diff
from v4npu.testing.cuda import EmulatedGpu


class Emulated:
    """In place of torch.ops.v4npu."""

    def __init__(self, gpu: EmulatedGpu) -> None:
        self._gpu, self.called = gpu, set()

    def __getattr__(self, op: str) -> Any:
        def call(*args: Any) -> Any:
            defaults = [a.default_value for a in getattr(torch.ops.v4npu, op).default._schema.arguments]
            out = self._gpu.run(op, (*args, *defaults[len(args) :]))
            assert self._gpu.launches(), f"{op}: the reference served it"
            self.called.add(op)
            return out if len(out) > 1 else out[0]

        return call


@pytest.mark.parametrize("dtype,numerics", [("bfloat16", "official"), ("float32", "exact")])
def test_a_pass_of_the_bundled_model(
    gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch, dtype: str, numerics: str
) -> None:
    model = v4npu.load("nano", device="cpu", dtype=dtype, numerics=numerics)
    model.layers = nn.ModuleList(model.layers[i] for i in (0, 2, 3))  # a hashed window layer, CSA and HCA
    assert [layer.attn.ratio for layer in model.layers] == [0, 4, 128]
    ids = torch.tensor([[77, 31, 5, 90, 12]])

    def logits() -> torch.Tensor:
        store = model.new_store(sequences=1, max_bytes=1 << 20)
        with torch.inference_mode():
            return model(ids, cache=model.new_cache(1, 8, store=store), last_only=True)[0, 0]

    want = logits()
    kernels = Emulated(gpu)
    monkeypatch.setattr(ops, "_op", kernels)
    got = logits()
    # All that a step calls; the others are parts of these.
    parts = {"hadamard", "fp4_act_quant", "fp4_linear", "indexer_scores", "rope"}
    if numerics == "exact":
        parts.add("act_quant")
    assert kernels.called == set(v4npu._C.op_names()) - parts
    assert got.argmax() == want.argmax() and calc_diff(got, want) < 1e-3
