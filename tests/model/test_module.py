"""v4npu.model.module: attributes are what nn.Module keeps, whoever exchanged them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import v4npu
from v4npu.model.linear import Activation, Linear, Norm
from v4npu.model.module import Module
from v4npu.testing import models


def linear(value: float) -> Linear:
    layer = Linear(4, 2, torch.float32)
    layer.weight = nn.Parameter(torch.full((2, 4), value))
    return layer


def test_a_parameter_may_be_exchanged_in_every_way() -> None:
    layer, x = linear(1.0), Activation(torch.ones(1, 4), False)
    assert layer(x).tolist() == [[4.0, 4.0]]
    swapped = torch.func.functional_call(layer, {"weight": torch.full((2, 4), 2.0)}, (x,))
    assert swapped.tolist() == [[8.0, 8.0]] and layer(x).tolist() == [[4.0, 4.0]]
    layer.load_state_dict({"weight": torch.full((2, 4), 3.0)}, assign=True)
    assert layer(x).tolist() == [[12.0, 12.0]]
    layer._parameters["weight"] = nn.Parameter(torch.full((2, 4), 5.0))
    assert layer(x).tolist() == [[20.0, 20.0]]
    twin = copy.deepcopy(layer)
    twin.weight.data.zero_()
    assert twin(x).tolist() == [[0.0, 0.0]] and layer(x).tolist() == [[20.0, 20.0]]
    assert layer.double().weight.dtype == torch.float64


def test_buffers_and_children_are_found_and_forgotten() -> None:
    class Parent(Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = linear(1.0)
            self.register_buffer("table", torch.zeros(3))

    parent = Parent()
    parent.child, parent.table = linear(2.0), torch.ones(3)
    assert parent.child.weight[0, 0] == 2 and parent.table.tolist() == [1, 1, 1]
    assert [name for name, _ in parent.named_modules()] == ["", "child"] and list(parent.state_dict()) == [
        "table", "child.weight"
    ]  # fmt: skip
    del parent.child
    assert not hasattr(parent, "child")
    with pytest.raises(AttributeError, match="'Parent' object has no attribute 'child'"):
        parent.child  # noqa: B018
    assert not hasattr(Norm(3, 1e-6, torch.float32), "scale")


def test_every_module_of_the_model_is_one() -> None:
    own = [m for m in v4npu.load("nano").modules() if type(m).__module__.startswith("v4npu.")]
    assert own and all(isinstance(m, Module) for m in own)


def test_the_compiler_sees_a_model_as_one_graph() -> None:
    config = replace(models.TINY, num_hidden_layers=2, compress_ratios=(4, 16), num_nextn_predict_layers=0)
    model, ids = models.model(config, dtype="bfloat16"), torch.arange(80).view(2, 40) % 48
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ids), model(ids))
