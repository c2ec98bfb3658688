"""v4npu.model.module: attributes are what nn.Module keeps, whoever exchanged them."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import v4npu
from v4npu import _C
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


@torch.no_grad()
def test_a_generation_ends_with_every_exchange() -> None:
    parent = Module()
    parent.first, parent.second, parent.bare = linear(1.0), linear(2.0), nn.Identity()
    seen: list[int] = []

    def risen() -> bool:
        now = parent.generation()
        assert now is not None and parent.generation() == now
        seen.append(now)
        return len(seen) == 1 or now > seen[-2]

    assert risen()
    place = parent.first.weight.data
    parent.first.weight.data = torch.zeros(2, 4)
    assert risen()
    parent.first.weight.data = place.view(torch.bfloat16)  # where a weight of another kind was
    assert risen()
    parent.second._parameters["weight"] = nn.Parameter(torch.zeros(2, 4))
    assert risen()
    parent.second.weight = nn.Parameter(parent.second.weight.data.view(4, 2).t())  # there too
    assert risen()
    parent.third = linear(3.0)
    assert risen()
    parent.third = nn.Sequential(parent.third)  # over the same weights
    assert risen()
    parent.first._parameters["weight"] = None
    assert risen()
    del parent.first, parent.third
    assert risen()
    parent.bare.register_buffer("table", torch.zeros(3))  # where nothing was
    assert risen()
    parent.bare.register_parameter("weight", nn.Parameter(torch.zeros(3)))
    assert risen()
    parent.second.add_module("child", nn.Sequential())
    assert risen()


@torch.no_grad()
def test_what_is_to_be_called_or_recorded_has_no_generation() -> None:
    parent = Module()
    parent.child = linear(2.0)
    assert parent.generation() is not None
    handle = parent.child.register_forward_hook(lambda *_: None)
    assert parent.generation() is None
    handle.remove()
    assert parent.generation() is not None
    parent.child.forward = lambda x: x  # type: ignore[method-assign,assignment]
    assert parent.generation() is None
    del parent.child.forward
    assert parent.generation() is not None
    with torch.enable_grad():
        assert parent.generation() is None
        parent.child.weight.requires_grad_(False)
        assert parent.generation() is not None
    parent.child.add_module("child", nn.Identity())
    parent.child.child.register_forward_hook(lambda *_: None)
    assert parent.generation() is None


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda module: pickle.loads(pickle.dumps(module)),  # noqa: S301
        lambda module: module._replicate_for_data_parallel(),  # copies `__dict__` as it is
    ],
)
@torch.no_grad()
def test_a_copy_has_a_tree_of_its_own(duplicate: Callable[[Module], Module]) -> None:
    parent = Module()
    parent.child = linear(1.0)
    parent.generation()
    assert "_tree" in vars(parent) and "_tree" not in parent.__getstate__()
    twin = duplicate(parent)
    assert twin.generation() != parent.generation()
    twin.forward = lambda x: x  # type: ignore[method-assign]
    assert twin.generation() is None and parent.generation() is not None


def test_a_tree_lets_go_of_what_it_watched() -> None:
    parent = Module()
    parent.child = linear(1.0)
    parent.generation()
    gone = weakref.ref(parent)
    del parent
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: _C.same_values([[]], []),  # type: ignore[list-item]
        lambda: _C.any_filled([3]),  # type: ignore[list-item]
        lambda: _C.any_has([3], "forward"),  # type: ignore[list-item]
        lambda: _C.data_ptrs(torch.Tensor.data_ptr, [3], b""),  # type: ignore[list-item]
    ],
)
def test_the_watching_half_in_cpp_refuses_what_it_cannot_read(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        call()


def test_values_are_compared_by_identity_and_order() -> None:
    a, b = object(), object()
    assert _C.same_values([{"x": a}, {}, {"y": b}], [a, b])
    assert not _C.same_values([{"x": a}, {"y": b}], [b, a])
    assert not _C.same_values([{"x": a}], [a, b]) and not _C.same_values([{"x": a, "y": b}], [a])
    assert _C.same_values([], []) and not _C.any_filled([{}, {}]) and _C.any_filled([{}, {1: 2}])
    assert _C.any_has([{}, {"forward": None}], "forward") and not _C.any_has([{"backward": 1}], "forward")


def test_every_module_of_the_model_is_one() -> None:
    own = [m for m in v4npu.load("nano").modules() if type(m).__module__.startswith("v4npu.")]
    assert own and all(isinstance(m, Module) for m in own)


def test_the_compiler_sees_a_model_as_one_graph() -> None:
    config = replace(models.TINY, num_hidden_layers=2, compress_ratios=(4, 16), num_nextn_predict_layers=0)
    model, ids = models.model(config, dtype="bfloat16"), torch.arange(80).view(2, 40) % 48
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ids), model(ids))
