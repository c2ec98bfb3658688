"""Going back while an earlier restart is still owed, or has just been computed; and what a restart leaves to others."""

from dataclasses import replace

import pytest
import torch

import v4npu
from v4npu.cache import CacheFull, PrefixCache
from v4npu.engine import Engine
from v4npu.testing import models

BLOCK = 16


def tokens(count, vocab=48):
    return torch.randint(2, vocab, (1, count), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return models.model(dtype="float32", numerics="exact", strict=True)


@pytest.fixture(scope="module")
def nano():
    return v4npu.load("nano", dtype="float32", numerics="exact")


def began(model, store, length, ids):
    cache = model.new_cache(1, ids.shape[1], store=store)
    model(ids[:, :length], cache=cache)
    return cache


@pytest.mark.parametrize("policy", ["live", "zero"])
@torch.inference_mode()
def test_two_rollbacks_at_once(model, policy, tmp_path):
    ids = tokens(160)
    want, store = model(ids), model.new_store(block_tokens=BLOCK, window_policy=policy)
    for first, second in ((112, 90), (112, 111), (97, 96), (140, 64), (100, 30), (80, 0)):
        cache = began(model, store, 150, ids)
        cache.rollback(first)
        sequence = cache.sequences[0]
        owed = sequence.replay(second)
        cache.rollback(second)
        assert owed in (0, second - sequence.computed)
        assert torch.equal(model(ids[:, second:], cache=cache), want[:, second:]), (first, second)
        owing = began(model, store, 150, ids)
        owing.rollback(first)
        for saved in (owing, began(model, store, first, ids)):
            saved.save(tmp_path / "state.safetensors")
            cache = model.load_cache(tmp_path / "state.safetensors")
            cache.rollback(second)
            assert torch.equal(model(ids[:, second:], cache=cache), want[:, second:]), ("loaded", first, second)


@torch.inference_mode()
def test_two_rollbacks_of_the_bundled_model(nano):
    ids = tokens(2300, 1024)
    cache = began(nano, None, 2200, ids)
    cache.rollback(1900)
    cache.rollback(1300)
    assert torch.equal(nano(ids[:, 1300:], cache=cache), nano(ids)[:, 1300:])


@pytest.mark.parametrize("ratios", [(4, 16, 0), (16, 4, 0)])
@torch.inference_mode()
def test_a_few_tokens_back_behind_a_restart(ratios):
    """An entry that began before it is pooled again, of rows that the restart computed."""
    model = models.model(
        replace(models.TINY, num_hidden_layers=2, compress_ratios=ratios), dtype="float32", numerics="exact"
    )
    ids = tokens(160)
    want, store = model(ids), model.new_store(block_tokens=BLOCK)
    for at in range(60, 140, 3):
        for back in (1, 2, 4, 5, 8):
            cache = began(model, store, 150, ids)
            cache.rollback(at)
            assert torch.equal(model(ids[:, at : at + 1], cache=cache), want[:, at : at + 1])
            cache.rollback(at + 1 - back)
            assert torch.equal(model(ids[:, at + 1 - back :], cache=cache), want[:, at + 1 - back :]), (at, back)


@pytest.mark.parametrize(
    ("first", "then"), [(torch.inference_mode, torch.no_grad), (torch.no_grad, torch.inference_mode)]
)
def test_a_cache_goes_on_in_another_mode(first, then):
    model, ids = v4npu.load("nano"), tokens(300, 1024)
    with torch.no_grad():
        want = model(ids)
    with first():
        cache = began(model, None, 100, ids)
    with then():
        for at in range(100, 120):
            assert torch.equal(model(ids[:, at : at + 1], cache=cache), want[:, at : at + 1])
        fork = cache.fork()
        assert torch.equal(model(ids[:, 120:], cache=fork), want[:, 120:])
        cache.rollback(60)
        assert torch.equal(model(ids[:, 60:], cache=cache), want[:, 60:])
    del cache, fork
    with first():
        assert torch.equal(model(ids, cache=model.new_cache()), want)  # in what is kept of the store


@torch.inference_mode()
def test_calls_that_fail_owe_no_more_than_before(model):
    ids, store = tokens(400), model.new_store(block_tokens=BLOCK, max_bytes=1 << 20)
    cache = began(model, store, 350, ids)
    cache.rollback(300)
    sequence, limit = cache.sequences[0], store.budget.limit
    start, store.budget.limit = sequence.computed, store.nbytes
    for _ in range(6):
        with pytest.raises(CacheFull):
            model(ids[:, 300:301], cache=cache)
        assert (len(sequence), sequence.computed) == (300, start)
    store.budget.limit = limit
    assert torch.equal(model(ids[:, 300:], cache=cache), model(ids)[:, 300:])


def test_a_shared_prefix_that_takes_more_room_than_there_is(nano):
    prompt, room = tokens(2047, 1024)[0].tolist(), nano.new_store().bytes_for(2048)
    engine = Engine(nano, max_bytes=room, prefix_bytes=room)
    said = []
    for _ in range(2):
        engine.add(prompt, max_new_tokens=1, stop_at_eos=False)
        said.append([event.token for event in engine.run()])
    assert said[0] == said[1] and len(said[0]) == 1


@pytest.mark.parametrize("kind", ["as it is", "restarted again", "fork", "saved", "live"])
@torch.inference_mode()
def test_windows_of_a_restart_are_not_shared(tmp_path, kind):
    """Another's snapshot may lie behind blocks that a restart had not got right, or not at all."""
    model = models.model(replace(models.TINY, sliding_window=40), dtype="float32", numerics="exact", strict=True)
    ids, full = tokens(400), model.new_store(block_tokens=BLOCK, window_policy="full")
    began(model, model.new_store(block_tokens=BLOCK, window_policy="zero"), 320, ids).save(tmp_path / "s.safetensors")
    restarted = model.load_cache(tmp_path / "s.safetensors", store=full)
    model(ids[:, 320:390], cache=restarted)
    if kind == "restarted again":
        restarted.rollback(370)
        model(ids[:, 370:375], cache=restarted)
    elif kind == "fork":
        restarted = restarted.fork()
    elif kind == "saved":
        restarted.save(tmp_path / "s.safetensors")
        restarted = model.load_cache(tmp_path / "s.safetensors", store=full)
    elif kind == "live":
        restarted = began(model, model.new_store(block_tokens=BLOCK), 390, ids)
        restarted.rollback(320)
        model(ids[:, 320:321], cache=restarted)
        restarted.save(tmp_path / "s.safetensors")
        restarted = model.load_cache(tmp_path / "s.safetensors", store=full)
    prefixes, straight = PrefixCache(full, 1 << 40), began(model, full, 400, ids)
    want = model.streams(ids)[0]
    for last in (7, 9, 12, 14, 17, 18):  # what is shared of the other's behind blocks of the restarted one
        prefixes.publish(restarted.sequences[0])
        while len(prefixes) > last + 1:
            prefixes.evict(prefixes.nbytes - 1)
        prefixes.publish(straight.sequences[0])
        known = (last + 2) * BLOCK
        other = prefixes.begin(ids[0, : known + 1].tolist())
        assert len(other) == known
        got = model.extend([other], [ids[0, known : known + 20].tolist()])
        assert torch.equal(got, want[known : known + 20]), last
        other.release()
        prefixes.clear()


@torch.inference_mode()
def test_a_draft_cache_cannot_compute_again(model, tmp_path):
    ids = tokens(161)
    streams, following = model.streams(ids[:, :160]), ids[:, 1:]
    store = model.new_store(draft=True, block_tokens=BLOCK, window_policy="full")
    cache = model.new_cache(1, 200, draft=True, store=store)
    model.draft(streams[:, :100], following[:, :100], cache=cache)
    cache.save(tmp_path / "s.safetensors")
    loaded = model.load_cache(tmp_path / "s.safetensors")
    for count in (1, 30):
        with pytest.raises(ValueError, match=r"cache: draft\(\) cannot compute positions \d+\.\.99 again"):
            model.draft(streams[:, 100 : 100 + count], following[:, 100 : 100 + count], cache=loaded)
    got, _ = model.draft(streams[:, 100:], following[:, 100:], cache=cache)
    assert torch.equal(got, model.draft(streams, following)[0][:, 100:])


@torch.inference_mode()
def test_a_draft_cache_goes_back_as_far_as_its_windows(model):
    ids = tokens(161)
    streams, following = model.streams(ids[:, :160]), ids[:, 1:]
    want, _ = model.draft(streams, following)
    cache = model.new_cache(1, 200, draft=True, store=model.new_store(draft=True, block_tokens=BLOCK))
    model.draft(streams[:, :100], following[:, :100], cache=cache)
    with pytest.raises(ValueError, match="rollback: a draft cache of 100 tokens cannot go back to 30"):
        cache.rollback(30)
    cache.rollback(96)
    assert torch.equal(model.draft(streams[:, 96:], following[:, 96:], cache=cache)[0], want[:, 96:])


@torch.inference_mode()
def test_a_file_without_an_open_state(tmp_path):
    """A window of one token has nothing to compute again."""
    config = replace(models.TINY, sliding_window=1, num_hidden_layers=1, compress_ratios=(16, 0))
    model, ids = models.model(config, dtype="float32", numerics="exact", strict=True), tokens(100)
    cache = began(model, None, 100, ids)
    cache.rollback(50)
    cache.save(tmp_path / "s.safetensors")
    cache = model.load_cache(tmp_path / "s.safetensors")
    assert torch.equal(model(ids[:, 50:], cache=cache), model(ids)[:, 50:])


@torch.inference_mode()
def test_a_long_call_that_fails_leaves_nothing_behind(model):
    """It has written over more than the rows that are kept for steps back."""
    ids, store = tokens(140), model.new_store(block_tokens=BLOCK)
    cache, other = began(model, store, 21, ids), 1 - ids % 2

    def interrupt(name, value):
        if name == "layers.3.streams":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model(other[:, 21:], cache=cache, trace=interrupt)
    assert torch.equal(model(ids[:, 21:], cache=cache), model(ids)[:, 21:])
