"""Continuous batching: requests do not disturb each other, whatever they share, wait for or give up."""

from __future__ import annotations

import time

import pytest
import torch

import v4npu
from v4npu.cache import CacheFull, Sequence
from v4npu.engine import Engine
from v4npu.testing import models


@pytest.fixture(scope="module")
def model():
    return models.model(dtype="float32", numerics="exact", strict=True)


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(2, 48, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def collect(engine: Engine) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for event in engine.run():
        out.setdefault(event.request, []).append(event.token)
    return out


def alone(model, ids: list[int], count: int, **options: object) -> list[int]:
    return list(model.generate(ids, max_new_tokens=count, stop_at_eos=False, **options))


PROMPTS = [(20, 0), (3, 1), (41, 2), (20, 0), (17, 3)]


@pytest.mark.parametrize("policy", ["live", "full"])
@pytest.mark.parametrize("chunk", [5, 64])
def test_each_request_says_what_it_says_alone(model, policy: str, chunk: int) -> None:
    engine = Engine(
        model, max_bytes=1 << 22, max_batch=3, chunk_tokens=chunk, prefix_bytes=1 << 20, block_tokens=16,
        window_policy=policy,
    )  # fmt: skip
    sampling = [{"temperature": 0.8, "seed": i, "top_p": 0.9} if i % 2 else {} for i in range(len(PROMPTS))]
    ids = [
        engine.add(prompt(*p), max_new_tokens=9, stop_at_eos=False, **s) for p, s in zip(PROMPTS, sampling, strict=True)
    ]
    out = collect(engine)
    for request, p, s in zip(ids, PROMPTS, sampling, strict=True):
        assert out[request] == alone(model, prompt(*p), 9, **s)
    assert engine.prefixes.hits >= 16  # the fourth request begins as the first did
    engine.prefixes.clear()
    assert len(engine) == 0 and engine.prefixes.nbytes == engine.store.nbytes == 0


def test_preempted_requests_go_on_where_they_were(model) -> None:
    room = model.new_store(block_tokens=16)
    engine = Engine(model, max_bytes=int(2.2 * room.bytes_for(60)), chunk_tokens=64, block_tokens=16)
    ids = [engine.add(prompt(14, i), max_new_tokens=44, stop_at_eos=False) for i in range(3)]
    out = collect(engine)
    assert engine.preemptions > 0
    for i, request in enumerate(ids):
        assert out[request] == alone(model, prompt(14, i), 44)
    assert engine.store.nbytes == 0


def test_requests_wait_where_there_is_no_room(model) -> None:
    engine = Engine(model, max_bytes=int(2.5 * model.new_store(block_tokens=16).bytes_for(45)), block_tokens=16)
    ids = [engine.add(prompt(40, i), max_new_tokens=4, stop_at_eos=False) for i in range(3)]
    assert [event.request for event in engine.step()] == ids[:2]
    assert set(collect(engine)) == set(ids) and engine.preemptions == 0


def test_requests_leave_and_stop(model) -> None:
    engine = Engine(model, max_bytes=1 << 22, block_tokens=16)
    kept, removed = (engine.add(prompt(9, i), max_new_tokens=12, stop_at_eos=False) for i in range(2))
    events = engine.step()
    engine.remove(removed)
    engine.remove(999)
    rest = list(engine.run())
    assert {e.request for e in rest} == {kept} and len(rest) == 11 and rest[-1].done == "length"
    assert {e.request for e in events} == {kept, removed}
    stop = rest[4].token
    model.config.__dict__["eos_token_id"], before = stop, model.config.eos_token_id
    try:
        engine.add(prompt(9, 0), max_new_tokens=12)
        last = list(engine.run())[-1]
        assert (last.token, last.done) == (stop, "stop")
    finally:
        model.config.__dict__["eos_token_id"] = before
    assert engine.store.nbytes == 0


def test_decoding_is_not_held_up(model) -> None:
    engine = Engine(model, max_bytes=1 << 22, chunk_tokens=2, block_tokens=16)
    ids = {engine.add(prompt(2, i), max_new_tokens=9, stop_at_eos=False) for i in range(4)}
    assert [len(engine.step()) for _ in range(5)] == [1, 2, 3, 4, 4]
    engine.add(prompt(40, 5), max_new_tokens=1)
    assert {event.request for event in engine.step()} == ids


def test_salt_keeps_prefixes_apart(model) -> None:
    engine = Engine(model, max_bytes=1 << 22, prefix_bytes=1 << 20, block_tokens=16)
    for salt in (b"a", b"b", b"a"):
        engine.add(prompt(40, 0), max_new_tokens=1, salt=salt)
        list(engine.run())
    assert engine.prefixes.hits == 32


def test_prefixes_are_evicted_by_bytes(model) -> None:
    store = model.new_store(block_tokens=16)
    engine = Engine(model, max_bytes=1 << 22, prefix_bytes=5 * store.layout.entry_block, block_tokens=16)
    for seed in range(4):
        engine.add(prompt(50, seed), max_new_tokens=1)
        list(engine.run())
        assert engine.prefixes.nbytes <= engine.prefixes.max_bytes
    assert len(engine.prefixes) == 5
    found = [len(engine.prefixes.begin(prompt(50, seed))) for seed in range(4)]
    assert found == [0, 0, 32, 48]  # the oldest went first, and prefixes from their ends
    engine.prefixes.begin(prompt(50, 2))
    engine.prefixes.evict(2 * store.layout.entry_block)
    assert [len(engine.prefixes.begin(prompt(50, seed))) for seed in (2, 3)] == [32, 0]  # what was found was used


def test_a_shared_prompt_is_not_computed_again() -> None:
    nano = v4npu.load("nano", dtype="float32", numerics="exact")
    ids = torch.randint(2, 1024, (1500,), generator=torch.Generator().manual_seed(0)).tolist()
    engine = Engine(
        nano, max_bytes=1 << 26, chunk_tokens=2048, prefix_bytes=1 << 24, window_policy="periodic", period=512
    )
    times = []
    for last in (5, 6):
        engine.add([*ids, last], max_new_tokens=1)
        begin = time.perf_counter()
        list(engine.run())
        times.append(time.perf_counter() - begin)
    assert engine.prefixes.hits == 1408 and times[1] < times[0] / 2


def test_refusals(model) -> None:
    with pytest.raises(ValueError, match="max_batch must be an integer of at least 1, got 0"):
        Engine(model, max_bytes=1 << 20, max_batch=0)
    engine = Engine(model, max_bytes=100_000, block_tokens=16)
    with pytest.raises(CacheFull, match=r"needs [\d,]+ bytes, max_bytes is 100,000"):
        engine.add(prompt(400, 0), max_new_tokens=400)
    for wrong, message in (
        ([], "must not be empty"),
        ([99], "got 99"),
        ([1] * 5000, "needs? 5064 positions|need 5064"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.add(wrong)
    with pytest.raises(ValueError, match="temperature"):
        engine.add([1], temperature=-1.0)
    with pytest.raises(ValueError, match="salt must be bytes, got str"):
        engine.add([1], salt="tenant")
    assert len(engine) == 0


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_request_that_cannot_be_sampled_harms_no_other(model, bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model, max_bytes=1 << 22, chunk_tokens=16, prefix_bytes=1 << 20, block_tokens=16)
    prompts = [prompt(5, 0), prompt(6, 1), prompt(7, 2), prompt(40, 3)]  # the last is in its prompt while others decode
    options: list[dict] = [{"temperature": 0.8, "seed": i} for i in range(4)]
    ids = [engine.add(p, max_new_tokens=6, stop_at_eos=False, **o) for p, o in zip(prompts, options, strict=True)]
    broken, sampling = False, engine._waiting[bad].sampling

    def draw(logits: torch.Tensor) -> tuple[int, torch.Tensor]:
        return type(sampling).next(sampling, logits * torch.nan if broken else logits)

    monkeypatch.setattr(sampling, "next", draw)
    out: dict[int, list[int]] = {i: [] for i in ids}
    for step in range(3):
        broken = step == 1
        try:
            for event in engine.step():
                out[event.request].append(event.token)
        except RuntimeError as error:
            assert broken and str(error).startswith(f"Engine: request {ids[bad]}: ") and "not finite" in str(error)
    for event in engine.run():
        out[event.request].append(event.token)
    assert out == {i: alone(model, p, 6, **o) for i, p, o in zip(ids, prompts, options, strict=True)}
    engine.prefixes.clear()
    assert engine.store.nbytes == 0


def test_the_others_go_on_without_a_broken_request(model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model, max_bytes=1 << 22, block_tokens=16)
    last, broken = engine.add(prompt(5, 0), max_new_tokens=1), engine.add(prompt(6, 1), max_new_tokens=4)
    monkeypatch.setattr(engine._waiting[1].sampling, "next", lambda logits: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    with pytest.raises(ZeroDivisionError):
        engine.step()
    engine.remove(broken)
    assert collect(engine) == {last: alone(model, prompt(5, 0), 1)}
    assert len(engine) == 0 and engine.store.nbytes == 0


@pytest.mark.parametrize("fails", ["logits", "publish"])
def test_what_fails_behind_the_layers_is_computed_again(model, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model, max_bytes=1 << 22, prefix_bytes=1 << 20, block_tokens=16)
    prompts = [prompt(20, 0), prompt(3, 1)]
    ids = [engine.add(p, max_new_tokens=5, stop_at_eos=False) for p in prompts]
    owner = model if fails == "logits" else engine.prefixes
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(owner, fails, lambda *_: bytearray(1 << 60))
        engine.step()
    assert collect(engine) == {i: alone(model, p, 5) for i, p in zip(ids, prompts, strict=True)}


def test_a_request_that_fits_alone_runs_alone(model) -> None:
    room = v4npu.load("nano").new_store()
    engine = Engine(v4npu.load("nano"), max_bytes=room.bytes_for(1024))
    ids = torch.randint(2, 200, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    request = engine.add(ids, max_new_tokens=24, stop_at_eos=False)
    assert len(collect(engine)[request]) == 24


def test_no_token_is_lost_where_there_is_no_room(model) -> None:
    engine = Engine(model, max_bytes=model.new_store(block_tokens=16).bytes_for(60), block_tokens=16)
    request, wanted = engine.add(prompt(30, 0), max_new_tokens=30, stop_at_eos=False), alone(model, prompt(30, 0), 30)
    other = Sequence(engine.store)
    with torch.inference_mode():
        model.extend([other], [prompt(40, 1)])
    with pytest.raises(CacheFull):
        engine.step()
    other.release()
    said = [event.token for event in engine.step()]
    limit, engine.store.budget.limit = engine.store.budget.limit, engine.store.nbytes
    with pytest.raises(CacheFull):
        for _ in range(30):
            said += [event.token for event in engine.step()]
    assert 1 < len(said) < 30 and len(engine) == 1
    engine.store.budget.limit = limit
    assert said + collect(engine)[request] == wanted
