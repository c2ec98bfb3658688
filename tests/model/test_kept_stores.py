"""A store that no cache uses any more is the next cache's, with the steps captured over it and without its content."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import v4npu
from v4npu.cache import Cache, CacheFull, pool
from v4npu.model import Model, graph

IDS = torch.randint(1000, (1, 200), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def nano() -> Model:
    return v4npu.load("nano", dtype="bfloat16")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(model: Model, cache: Cache) -> Tensor:
    """Logits of a prompt and of single tokens behind it, past the ends of blocks and compressed entries."""
    return torch.cat([model(ids, cache=cache) for ids in IDS.split([120] + [1] * 80, 1)], 1)


def test_the_next_cache_gets_it_with_its_steps(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    captures = []
    real = graph.StepGraph

    def counted(*args: object) -> object:
        captures.append(args)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(graph, "StepGraph", counted)
    cache = nano.new_cache()
    store, want, first = cache.store, run(nano, cache), len(captures)
    del cache
    cache = nano.new_cache(max_tokens=500)
    assert cache.store is store and cache.num_tokens == 0
    assert torch.equal(run(nano, cache), want)
    assert len(captures) == first > 0


def test_what_is_in_use_is_not_shared(nano: Model) -> None:
    cache = nano.new_cache()
    store = cache.store
    assert nano.new_cache().store is not store
    run(nano, cache)
    fork = cache.fork()
    del cache
    assert nano.new_cache().store is not store
    held = store.entry_pool.retain(fork.sequences[0].entry_blocks[0])  # as a prefix cache does
    del fork
    assert store.nbytes > 0 and nano.new_cache().store is not store
    store.entry_pool.release(held)
    assert nano.new_cache().store is store
    assert nano.new_cache(draft=True).store is not store


def test_it_holds_no_memory(nano: Model) -> None:
    cache = nano.new_cache()
    run(nano, cache)
    pools = (cache.store.entry_pool, cache.store.window_pool, cache.store.state_pool)
    used = [len(p.refs) for p in pools]
    assert all(p.bytes[:n].any() for p, n in zip(pools, used, strict=True))
    del cache
    assert not any(p.refs or p.bytes[:n].any() for p, n in zip(pools, used, strict=True))


def test_a_store_dies_with_its_last_cache(nano: Model) -> None:
    cache = nano.new_cache(store=nano.new_store())
    run(nano, cache)
    store = weakref.ref(cache.store)
    gc.disable()  # nothing refers to it in a circle
    try:
        del cache
        assert store() is None
    finally:
        gc.enable()


def test_few_are_kept(nano: Model) -> None:
    caches = [nano.new_cache() for _ in range(6)]
    stores = {cache.store for cache in caches}
    caches.clear()
    again = [nano.new_cache() for _ in range(6)]
    assert len(stores) == 6 and len(stores & {cache.store for cache in again}) == 4


def test_pools_without_room_to_spare_are_not_kept(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pool.reserve

    def limited(nbytes: int, device: torch.device) -> object:
        if nbytes > 1 << 30:
            raise CacheFull
        return real(nbytes, device)

    monkeypatch.setattr(pool, "reserve", limited)
    cache = nano.new_cache(max_tokens=256)
    store, room = cache.store, cache.store.entry_pool.room()
    del cache
    cache = nano.new_cache(max_tokens=1024)
    assert cache.store is not store and cache.store.entry_pool.room() > room


def test_a_copy_of_a_model_has_its_own(nano: Model) -> None:
    want = run(nano, nano.new_cache())
    with torch.inference_mode(False):
        twin = copy.deepcopy(nano)
    cache = twin.new_cache()
    assert cache.store is not nano.new_cache().store
    assert torch.equal(run(twin, cache), want)


def test_threads(nano: Model) -> None:
    want, wrong = run(nano, nano.new_cache()), []

    def work() -> None:
        with torch.no_grad():
            for _ in range(5):
                if not torch.equal(run(nano, nano.new_cache()), want):
                    wrong.append(threading.current_thread().name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
