"""v4npu.model.graph: a replayed step is the step, bit for bit, and gives way to whoever wants to see or change it."""

from __future__ import annotations

import copy
import inspect
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

import v4npu
from v4npu.cache import Cache
from v4npu.model import Model, graph
from v4npu.testing import models

IDS = torch.randint(1, 500, (3, 400), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def nano() -> Model:
    return v4npu.load("nano", dtype="bfloat16", numerics="official")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def captured(cache: Cache) -> int:
    return sum(bool(found) for found in cache.store.graphs.values())


def decode(model: Model, cache: Cache, at: int, count: int) -> Tensor:
    """Logits of IDS[:, at : at + count], one token of each sequence at a time."""
    ids = IDS[: len(cache.lengths)]
    return torch.cat([model(ids[:, i : i + 1], cache=cache) for i in range(at, at + count)], 1)


def plain(model: Model, cache: Cache, at: int, count: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as m:
        m.setattr(graph, "MAX_TOKENS", 0)
        return decode(model, cache, at, count)


@pytest.mark.parametrize(
    "numerics, dtype, batch, mode",
    [("official", "bfloat16", 1, torch.inference_mode), ("exact", "float32", 3, torch.no_grad)],
)
def test_a_replay_is_the_step(
    numerics: str, dtype: str, batch: int, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = v4npu.load("nano", dtype=dtype, numerics=numerics)
    monkeypatch.setattr(graph, "TABLE_BLOCKS", 1)  # so that tables grow on the way
    starts = torch.tensor([[6], [0], [3]][:batch])  # sequences at three residues
    mask, count = torch.arange(6) >= starts[:batch], 140
    with mode():
        caches = [model.new_cache(batch) for _ in range(2)]
        for cache in caches if batch > 1 else []:
            model(IDS[:batch, :7], attention_mask=torch.cat([mask, torch.ones(batch, 1)], 1).long(), cache=cache)
        got = decode(model, caches[0], 7, count)
        want = plain(model, caches[1], 7, count, monkeypatch)
    assert torch.equal(got, want)
    assert captured(caches[0]) >= 3 and not captured(caches[1])


def test_stepping_back_forks_and_mixed_passes_go_on_from_a_replay(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = [nano.new_cache(1) for _ in range(2)]
    out = []
    for cache, run in zip(caches, (decode, lambda *a: plain(*a, monkeypatch)), strict=True):
        rows = [run(nano, cache, 0, 30)]
        fork = cache.fork()
        rows += [run(nano, fork, 100, 9), run(nano, cache, 30, 9)]
        cache.rollback(21)
        rows += [run(nano, cache, 200, 10), nano(IDS[:1, :5], cache=cache), run(nano, cache, 50, 6)]
        out.append(torch.cat(rows, 1))
    assert captured(caches[0]) and torch.equal(*out)


def test_weights_are_those_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    model = v4npu.load("nano", dtype="bfloat16")
    caches = [model.new_cache(1) for _ in range(2)]
    norm, seen = model.layers[2].attn_norm, set()
    changes = itertools.cycle(
        [
            lambda: norm.weight.data.mul_(1.5),
            lambda: setattr(norm, "weight", nn.Parameter(norm.weight.data * 0.5)),
            lambda: setattr(norm.weight, "data", norm.weight.data * 1.25),
            lambda: norm._parameters.update(weight=nn.Parameter(norm.weight.data + 0.125)),
        ]
    )
    for at in range(0, 40, 10):
        got, want = decode(model, caches[0], at, 10), plain(model, caches[1], at, 10, monkeypatch)
        assert torch.equal(got, want)
        (weights,) = {key[-1] for key in caches[0].store.graphs}  # steps of those before are not kept
        assert captured(caches[0])
        seen.add(weights)
        next(changes)()
    assert len(seen) == 3  # what was changed in place is the same
    changed = model.layers[0]
    model.layers[0] = model.layers[1]  # another module in its place
    assert torch.equal(decode(model, caches[0], 40, 6), plain(model, caches[1], 40, 6, monkeypatch))
    model.layers[0] = changed


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer.ffn.gate, "weight", nn.Parameter(layer.ffn.gate.weight.data.view(256, 7).t())),
        lambda layer: setattr(layer, "attn_norm", nn.Sequential(layer.attn_norm, nn.Softplus())),
        lambda layer: parametrize.register_parametrization(layer.attn_norm, "weight", nn.Softplus()),
    ],
)
def test_what_takes_the_place_of_a_weight_is_another(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = v4npu.load("nano", dtype="bfloat16")
    caches = [model.new_cache(1) for _ in range(2)]
    assert torch.equal(decode(model, caches[0], 0, 10), plain(model, caches[1], 0, 10, monkeypatch))
    assert captured(caches[0])
    change(model.layers[2])
    assert torch.equal(decode(model, caches[0], 10, 10), plain(model, caches[1], 10, 10, monkeypatch))


def test_whoever_looks_on_sees_every_step(nano: Model) -> None:
    cache = nano.new_cache(1)
    decode(nano, cache, 0, 12)
    assert captured(cache)
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        decode(nano, cache, 12, 1)
    assert seen.count("v4npu.hc_pre.default") == 2 * len(nano.layers)

    handle = nano.layers[3].register_forward_hook(lambda *_: seen.append("hook"))
    decode(nano, cache, 13, 2)
    handle.remove()
    assert seen.count("hook") == 2

    for register in (register_module_forward_hook, register_module_forward_pre_hook):  # of every module there is
        seen.clear()
        handle = register(lambda module, *_: seen.append("hook") if module is nano.layers[3] else None)
        decode(nano, cache, 15, 2)
        handle.remove()
        assert seen == ["hook"] * 2

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        decode(nano, cache, 17, 1)
    assert any(event.key == "v4npu::hc_pre" for event in profile.key_averages())

    names: list[str] = []
    nano(IDS[:1, 18:19], cache=cache, trace=lambda name, _: names.append(name))
    assert "layers.5.streams" in names
    with torch.enable_grad():
        cache = nano.new_cache(1)
        assert not decode(nano, cache, 0, 12).requires_grad and captured(cache)


def test_a_copy_of_a_model_that_has_decoded_hears_of_its_own(nano: Model) -> None:
    decode(nano, nano.new_cache(1), 0, 12)
    twin, seen = copy.deepcopy(nano), []
    cache, layer = twin.new_cache(1), twin.layers[0]

    def forward(*args: Any) -> Any:
        seen.append("forward")
        return type(layer).forward(layer, *args)

    layer.forward = forward
    decode(twin, cache, 0, 12)
    assert len(seen) == 12 and not captured(cache)
    del layer.forward
    decode(twin, cache, 12, 12)
    assert captured(cache)


def test_what_is_no_kernel_alone_is_not_captured() -> None:
    model = models.model(dtype=torch.float64)  # the reference's
    cache = model.new_cache(1)
    for i in range(6):
        model(IDS[:1, i : i + 1] % model.config.vocab_size, cache=cache)
    assert cache.store.graphs and not captured(cache)


def test_graphs_of_a_store_are_few(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_GRAPHS", 1)
    caches = [nano.new_cache(1, store=nano.new_store()) for _ in range(2)]
    assert torch.equal(decode(nano, caches[0], 0, 20), plain(nano, caches[1], 0, 20, monkeypatch))
    assert len(caches[0].store.graphs) == 1


def test_a_replay_refuses_what_the_operator_refuses() -> None:
    model = v4npu.load("nano", dtype="bfloat16")
    cache = model.new_cache(1)
    decode(model, cache, 0, 12)
    assert captured(cache)
    table = model.layers[0].ffn.gate.tid2eid
    assert table is not None
    table.data[IDS[0, 12]] = 1 << 20
    with pytest.raises(ValueError, match="tid2eid"):
        decode(model, cache, 12, 1)
    assert cache.num_tokens == 12
    assert torch.isfinite(decode(model, cache, 13, 1)).all()


def test_pages_may_move(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = [nano.new_cache(1, store=nano.new_store(max_bytes=4 << 20)) for _ in range(2)]
    got = [decode(nano, caches[0], 0, 12)]
    assert captured(caches[0])
    caches[0].store.grow()
    got.append(decode(nano, caches[0], 12, 12))
    assert torch.equal(torch.cat(got, 1), plain(nano, caches[1], 0, 24, monkeypatch))


def test_threads_replay_their_own(nano: Model) -> None:
    want, got, prefix = decode(nano, nano.new_cache(1), 0, 40), [], nano.new_cache(1)

    def work(cache: Cache) -> None:
        with torch.no_grad():
            got.append(decode(nano, cache, 0, 40))

    caches = (nano.new_cache(1), prefix, prefix.fork())  # two of them share pages and graphs
    threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 3 and all(torch.equal(one, want) for one in got)


def test_the_compiler_is_not_imported_for_a_capture() -> None:
    seen = graph._Recorder.__torch_dispatch__
    assert inspect.unwrap(seen) is seen  # torch wraps those of other modes in what imports torch._dynamo
