"""The cache: what it takes, how it grows, padding, forks, and what is refused."""

from __future__ import annotations

import copy
import gc
import resource
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from v4npu import footprint as fp
from v4npu.cache import CacheFull, Sequence, Store
from v4npu.model import Config
from v4npu.testing import models

N = 1_048_576
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return models.model(dtype="float32", numerics="exact", strict=True)


def ids(length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 48, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["pro", "flash"])
def test_bytes_of_a_million_tokens(name: str) -> None:
    """What the specification counts (6.2), plus at most 1 % of open state, page rounding and window slack."""
    config = Config.preset(name)
    layers = config.num_hidden_layers
    store = Store(config, config.compress_ratios[:layers], torch.bfloat16, True, CPU)
    counted, layout = fp.kv_bytes(config, N), store.layout
    kinds = [config.layer_kind(i) for i in range(layers)]
    blocks, page = N // store.block_tokens, 128 * 584
    rounding = blocks * kinds.count("hca") * (640 - 584)  # an HCA page is one row, rounded up to a cache line
    assert blocks * layout.entry_block == counted.csa + counted.indexer + counted.hca + rounding
    overlap = kinds.count("csa") * 2 * 4 * (512 + 128) * 4
    assert layout.window_block == layers * page + overlap
    csa, hca = 16 * 2 * (1024 + 256) * 4, 136 * 2 * 512 * 4
    assert layout.open_state == kinds.count("csa") * csa + kinds.count("hca") * hca
    total = blocks * layout.entry_block + 2 * layout.window_block + layout.open_state
    assert counted.total < total < 1.01 * counted.total
    assert store.bytes_for(N) == total + layout.window_block  # a third window block in a block's first tokens


def test_address_space_may_be_limited(model) -> None:
    """ulimit -v: a cache takes what was asked for instead of all that the machine has."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + (256 << 20), before[1]))
    try:
        cache = model.new_cache(1, 256)
        with torch.inference_mode():
            model(ids(256), cache=cache)
        assert cache.store.entry_pool.room() == 0
        with pytest.raises(CacheFull, match=r"[\d,]+ bytes of address space .* fewer max_tokens"):
            model.new_cache(1 << 12, 1 << 12)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    with pytest.raises(CacheFull, match=f"limit of {cache.nbytes:,} bytes"):
        cache.fork().store.entry_pool.allocate()


def test_grows_by_pages_and_gives_them_back(model) -> None:
    store = model.new_store(block_tokens=16)
    cache = model.new_cache(1, 200, store=store)
    sizes, first = [], None
    with torch.inference_mode():
        for at in range(0, 96, 16):
            model(ids(96)[:, at : at + 16], cache=cache)
            sizes.append(cache.nbytes)
            first = first or store.entry_pool.bytes.data_ptr()
            assert store.entry_pool.bytes.data_ptr() == first  # nothing was moved
    steps = {b - a for a, b in pairwise(sizes[1:])}
    assert steps == {store.layout.entry_block}
    assert sizes[-1] <= store.bytes_for(96)
    fork = cache.fork()
    assert fork.nbytes == sizes[-1]
    del cache, fork
    gc.collect()
    assert store.nbytes == 0


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side: str) -> None:
    lengths, width = [23, 9, 30, 1], 30
    rows, mask = torch.full((4, width), 7), torch.zeros(4, width, dtype=torch.int64)
    alone = []
    for b, n in enumerate(lengths):
        text = ids(n, seed=b)
        part = slice(width - n, width) if side == "left" else slice(0, n)
        rows[b, part], mask[b, part] = text[0], 1
        alone.append((text, part))
    cache = model.new_cache(4, 64)
    logits = model(rows, attention_mask=mask, cache=cache)
    last = model(rows, attention_mask=mask, last_only=True)
    assert cache.lengths == lengths
    for b, (text, part) in enumerate(alone):
        expected = model(text)
        assert torch.equal(logits[b, part], expected[0])
        assert torch.equal(last[b, 0], expected[0, -1])
    more = ids(4, seed=9).T.contiguous()
    after = model(more, cache=cache)
    for b, (text, _) in enumerate(alone):
        assert torch.equal(after[b, 0], model(torch.cat((text, more[b : b + 1]), dim=1))[0, -1])


@torch.inference_mode()
def test_a_call_that_fails_changes_nothing(model) -> None:
    text = ids(40)
    store = model.new_store(block_tokens=16, max_bytes=model.new_store(block_tokens=16).bytes_for(32))
    cache = model.new_cache(1, 200, store=store)
    model(text[:, :21], cache=cache)
    with pytest.raises(CacheFull, match=r"more tokens need [\d,]+ bytes"):
        model(ids(100), cache=cache)
    assert cache.num_tokens == 21
    expected = model(text)[0]

    def interrupt(name: str, value: object) -> None:
        if name == "layers.2.streams":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model(text[:, 21:30], cache=cache, trace=interrupt)
    assert torch.equal(model(text[:, 21:30], cache=cache)[0], expected[21:30])


@pytest.mark.parametrize("call", ["forward", "padded", "streams"])
def test_a_call_that_fails_behind_the_layers_changes_nothing(model, call: str, monkeypatch) -> None:
    text, mask = ids(40), torch.ones(1, 19, dtype=torch.int64)
    mask[:, :2] = 0
    cache, expected = model.new_cache(1, 200), model(text)[0]
    model(text[:, :21], cache=cache)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        if call == "streams":
            patch.setattr(torch.Tensor, "new_zeros", lambda *_: bytearray(1 << 60))
            model.streams(text[:, 21:], cache=cache, attention_mask=mask)
        else:
            hook = model.norm.register_forward_pre_hook(lambda *_: bytearray(1 << 60))
            try:
                model(text[:, 21:], cache=cache, attention_mask=mask if call == "padded" else None)
            finally:
                hook.remove()
    assert cache.num_tokens == 21
    assert torch.equal(model(text[:, 21:30], cache=cache)[0], expected[21:30])


@torch.inference_mode()
def test_a_draft_that_fails_behind_its_layer_changes_nothing(model) -> None:
    text, cache = ids(20), model.new_cache(1, 100, draft=True)
    streams = model.streams(text)
    expected = model.draft(streams[:, :-1], text[:, 1:])[0]
    model.draft(streams[:, :10], text[:, 1:11], cache=cache)
    hook = model.mtp[0].norm.register_forward_pre_hook(lambda *_: bytearray(1 << 60))
    with pytest.raises(MemoryError):
        model.draft(streams[:, 10:14], text[:, 11:15], cache=cache)
    hook.remove()
    assert cache.num_tokens == 10
    assert torch.equal(model.draft(streams[:, 10:-1], text[:, 11:], cache=cache)[0], expected[:, 10:])


@torch.inference_mode()
def test_steps_back_cost_what_is_promised(model) -> None:
    block, cache = 64, model.new_cache(1, 400, store=model.new_store(block_tokens=64))
    s, text = cache.sequences[0], ids(300)
    model(text, cache=cache)
    for back in range(1, 9):
        assert s.replay(300 - back) == 0
    assert 0 < s.replay(270) < block  # the last boundary's windows are there
    depth = 4 * (model.config.sliding_window - 1)
    assert all(s.replay(n) < depth + 2 * block for n in range(1, 300))
    cache.rollback(100)
    assert torch.equal(model(text[:, 100:120], cache=cache), model(text)[:, 100:120])


def test_refusals(model) -> None:
    cache = model.new_cache(2, 10)
    with pytest.raises(ValueError, match=r"rollback: num_tokens must be an integer in 0\.\.0, got 1"):
        cache.rollback(1)
    with pytest.raises(ValueError, match="batch of 2, got 1"):
        model(ids(3), cache=cache)
    with pytest.raises(ValueError, match="max_tokens of the cache is 10"):
        model(ids(11, 2), cache=cache)
    with pytest.raises(ValueError, match="belongs to another model"):
        models.model(dtype="float32", numerics="exact")(ids(3, 2), cache=cache)
    with pytest.raises(TypeError, match="cache must be one of new_cache or load_cache, got tuple"):
        model(ids(3, 2), cache=())
    with pytest.raises(ValueError, match="row 1 is not"):
        model(ids(3, 2), attention_mask=torch.tensor([[1, 1, 0], [1, 0, 1]]), cache=cache)
    with pytest.raises(ValueError, match=r"attention_mask must be \[2, 3\]"):
        model(ids(3, 2), attention_mask=torch.ones(2, 4), cache=cache)
    with pytest.raises(ValueError, match="zeros and ones"):
        model(ids(3, 2), attention_mask=torch.full((2, 3), 0.5), cache=cache)
    with pytest.raises(ValueError, match="input_ids must hold values, got a meta tensor"):
        model(ids(3, 2).to("meta"))
    with pytest.raises(ValueError, match="attention_mask must hold values, got a meta tensor"):
        model(ids(3, 2), attention_mask=ids(3, 2).to("meta"))
    with pytest.raises(TypeError, match="cache must be one of new_cache or load_cache, got dict"):
        model.draft(model.streams(ids(3)), ids(3), cache={})
    for options, message in (
        ({"block_tokens": 24}, "positive multiple of 16 up to 1048576, got 24"),
        ({"window_policy": "none"}, "window_policy must be one of live, full"),
        ({"period": 32}, "only then"),
        ({"max_bytes": 0}, "max_bytes must be a positive integer, got 0"),
        *(({name: "8"}, f"{name} must be a positive integer, got '8'") for name in ("sequences", "max_tokens")),
        ({"window_policy": "periodic", "period": 100}, "multiple of block_tokens 128, got 100"),
    ):
        with pytest.raises(ValueError, match=message):
            model.new_store(**options)
    for name, values in (("batch", (0, 10**9)), ("max_tokens", (0, 2.5, 1 << 41))):
        for value in values:
            with pytest.raises(ValueError, match=f"{name} must be an integer from 1 to"):
                model.new_cache(**{name: value})


def test_a_fork_may_outlive_its_cache_but_not_its_model() -> None:
    model = models.model(dtype="float32", numerics="exact")
    with torch.inference_mode():
        cache = model.new_cache(1, 60)
        model(ids(30), cache=cache)
        fork = copy.deepcopy(copy.copy(cache.fork()))  # copies are forks
        del cache
        assert torch.equal(model(ids(40)[:, 30:], cache=fork).argmax(-1), model(ids(40))[:, 30:].argmax(-1))
    del model
    gc.collect()
    for use in (fork.fork, lambda: fork.save("anywhere")):
        with pytest.raises(ValueError, match="the model of this cache is gone"):
            use()


def test_a_cache_copied_with_its_model_belongs_to_the_copy(model) -> None:
    cache = model.new_cache()
    copied, forked = copy.deepcopy((model, cache))
    assert forked.model() is copied and copy.deepcopy(cache).model() is model
    with torch.inference_mode():
        assert torch.equal(copied(ids(9), cache=forked), model(ids(9), cache=cache))


def test_a_sequence_of_no_tokens(model) -> None:
    s = Sequence(model.new_store())
    s.rollback(0)
    s.release()
    assert len(s) == 0 and s.replay(0) == 0
