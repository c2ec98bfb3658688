"""Caches in files: what comes back, what each window policy costs, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from v4npu.cache import CacheFull, files
from v4npu.testing import models

TEXT = torch.randint(0, 48, (1, 200), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return models.model(dtype="bfloat16", strict=True)


def filled(model, policy: str = "live", tokens: int = 150):
    period = 64 if policy == "periodic" else None
    store = model.new_store(block_tokens=16, window_policy=policy, period=period)
    cache = model.new_cache(1, 200, store=store)
    with torch.inference_mode():
        model(TEXT[:, :tokens], cache=cache)
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("policy", ["live", "full", "periodic", "zero"])
def test_comes_back_by_every_policy(model, tmp_path: Path, policy: str) -> None:
    cache = filled(model, policy)
    cache.save(tmp_path / "cache")
    loaded = model.load_cache(tmp_path / "cache")
    owed = {"live": (0, 0), "full": (6, 6), "periodic": (22, 22), "zero": (28, 60)}[policy]
    assert owed[0] <= 150 - loaded.sequences[0].computed <= owed[1]
    assert (loaded.num_tokens, loaded.max_tokens, loaded.store.window_policy) == (150, 200, policy)
    expected = model(TEXT)[:, 150:]
    assert torch.equal(model(TEXT[:, 150:], cache=loaded), expected)
    assert torch.equal(model(TEXT[:, 150:], cache=cache), expected)  # saving left it alone


def test_policies_cost_what_they_keep(model, tmp_path: Path) -> None:
    size = {}
    for policy in ("live", "full", "periodic", "zero"):
        filled(model, policy).save(tmp_path / policy)
        size[policy] = (tmp_path / policy).stat().st_size
    assert size["zero"] < size["live"] < size["full"] and size["zero"] < size["periodic"] < size["full"]


def altered(path: Path, change) -> Path:
    """A copy whose description `change` has edited."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["cache"])
    change(about)
    description = json.dumps(about)
    header["__metadata__"].update(cache=description, sha256=hashlib.sha256(description.encode()).hexdigest())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out = path.with_name("altered")
    out.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return out


CHANGES = [
    (lambda a: a.update(version=1), "cache version must be 2, got 1"),
    (lambda a: a.update(model="x"), "the cache's model is 'x', this model's is"),
    (lambda a: a.update(numerics="exact"), "the cache's numerics is 'exact', this model's is 'official'"),
    (lambda a: a.update(dtype="float32"), "the cache's dtype is"),
    (lambda a: a.pop("sequences"), "cache description is malformed: KeyError"),
    (lambda a: a["sequences"][0].update(known=151), "sequence 0: 10 entry blocks and 151 known of 150 tokens"),
    (lambda a: a["sequences"][0].update(entry_blocks=11), "11 entry blocks and 150 known of 150 tokens do not fit"),
    (lambda a: a["sequences"][0].update(windows=[0, 99]), "windows must be ascending numbers of its 10 blocks"),
    (lambda a: a["sequences"][0].update(windows=[8.0, 9]), "windows must be ascending numbers of its 10 blocks"),
    (lambda a: a["sequences"][0].update(windows=[*range(10)]), "tensor '0.windows.0' must be uint8 [10, "),
    (lambda a: a["sequences"][0].update(windows=[], snapshots=[]), "the window before token 150 is missing"),
    (lambda a: a.update(max_tokens=149), "tokens of sequence 0 must be int64 [at most 149], got torch.int64 [150]"),
    (lambda a: a["sequences"][0].update(snapshots=[7]), "snapshots must lie behind its window blocks"),
    (lambda a: a["sequences"][0].update(live=[999, 0, 999, False]), "its position is out of range"),
    (lambda a: a["sequences"][0].update(state=False), "its open state must be there"),
    (lambda a: a["sha256"].update({"0.tokens": "0"}), "tensor '0.tokens' does not match its checksum"),
    (lambda a: a.update(block_tokens=-16), "block_tokens must be a positive multiple"),
    (lambda a: a.update(sequences=[3]), "cache description is malformed: TypeError"),
    (lambda a: a.update(sequences=[]), "a cache must have at least one sequence"),
    (lambda a: a.update(sequences={}), "sequences must be of type list, got {}"),
    (lambda a: a.update(block_tokens=2**40), "block_tokens must be a positive multiple of 16 up to 1048576, got"),
    (lambda a: a.update(max_tokens=200.0), "max_tokens must be of type int, got 200.0"),
    (lambda a: a.update(max_tokens=0), "room for a token"),
    (lambda a: a.update(draft=0), "draft must be of type bool, got 0"),
    (lambda a: a["sequences"][0].update(known=150.0), "sequence 0: known must be of type int, got 150.0"),
    (lambda a: a["sequences"][0].update(entry_blocks=10.0), "sequence 0: entry_blocks must be of type int, got 10.0"),
    (lambda a: a["sequences"][0].update(windows={}), "sequence 0: windows must be of type list, got {}"),
    (lambda a: a["sequences"][0].update(state=5), "sequence 0: state must be of type bool, got 5"),
    (lambda a: a["sequences"][0].update(live=None), "sequence 0: it can have no open state"),
    (lambda a: a["sequences"][0].update(live=[150, 0, 150]), "three integers and true or false, got [150, 0, 150]"),
    (lambda a: a["sequences"][0].update(live=[150.0, 0, 150, False]), "three integers and true or false, got [150.0,"),
    (lambda a: a["sequences"][0].update(known=144, entry_blocks=9), "its position is out of range"),
    (lambda a: a["sequences"][0].update(live=[150, 201, 150, False]), "its position is out of range"),
    (lambda a: a["sequences"][0].update(live=[150, 0, 150, True]), "there is no snapshot where it restarts"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_description_that_does_not_fit_is_refused(model, tmp_path: Path, change, message: str) -> None:
    filled(model).save(tmp_path / "cache")
    with pytest.raises(ValueError, match="altered: ") as caught:
        model.load_cache(altered(tmp_path / "cache", change))
    assert message in str(caught.value)
    store = model.new_store(block_tokens=16)
    with pytest.raises(ValueError, match="altered: "):
        model.load_cache(tmp_path / "altered", store)
    assert store.nbytes == 0


def test_corrupt_and_truncated_files_are_refused(model, tmp_path: Path) -> None:
    filled(model).save(tmp_path / "cache")
    data = (tmp_path / "cache").read_bytes()
    for at in (data.index(b'max_tokens\\": 200') + 14, len(data) - 100):
        (tmp_path / "flipped").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ValueError, match="does not match its checksum"):
            model.load_cache(tmp_path / "flipped")
    for size in (0, 7, 1000, len(data) - 1):
        (tmp_path / "short").write_bytes(data[:size])
        with pytest.raises(ValueError, match="short: "):
            model.load_cache(tmp_path / "short")
    with pytest.raises(ValueError, match="must be a cache that v4npu saved"):
        models.v4npu.checkpoint.random(tmp_path / "model", models.TINY)
        model.load_cache(tmp_path / "model" / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="absent"):
        model.load_cache(tmp_path / "absent")


def test_another_model_is_refused_and_no_room_is_clean(model, tmp_path: Path) -> None:
    filled(model).save(tmp_path / "cache")
    other = models.model(seed=1, dtype="bfloat16")
    with pytest.raises(ValueError, match="the cache's model is"):
        other.load_cache(tmp_path / "cache")
    store = model.new_store(block_tokens=16, max_bytes=30_000)
    with pytest.raises(CacheFull):
        model.load_cache(tmp_path / "cache", store)
    assert store.nbytes == 0
    cache, store = filled(model), model.new_store(block_tokens=16)
    for token in (-1, 48):
        cache.sequences[0].tokens[3] = token
        cache.save(tmp_path / "cache")
        with pytest.raises(ValueError, match=r"cache: tokens must be in 0\.\.47"):
            model.load_cache(tmp_path / "cache", store)
        assert store.nbytes == 0


def test_a_store_of_something_else_is_refused(model, tmp_path: Path) -> None:
    filled(model).save(tmp_path / "cache")
    for use in (lambda s: model.new_cache(store=s), lambda s: model.load_cache(tmp_path / "cache", s)):
        with pytest.raises(TypeError, match="store must be one of new_store, got str"):
            use("store")
    stores = [model.new_store(draft=True), models.model(models.OFFICIAL).new_store()]
    for store in (*stores, models.model(dtype="float64").new_store()):
        with pytest.raises(ValueError, match="store: it was made for another model"):
            model.new_cache(store=store)
    model.new_cache(store=stores[0], draft=True)


def test_weights_that_have_changed_are_another_model(tmp_path: Path) -> None:
    model = models.model(dtype="bfloat16")
    filled(model).save(tmp_path / "before")
    model.load_cache(tmp_path / "before")
    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained.norm.weight.add_(1)  # as an optimiser does
    model.install("norm.weight", 2 * model.norm.weight.detach())
    for changed in (model, trained):
        with pytest.raises(ValueError, match="the cache's model is"):
            changed.load_cache(tmp_path / "before")
        filled(changed).save(tmp_path / "after")
        changed.load_cache(tmp_path / "after")
        with pytest.raises(ValueError, match="the cache's model is"):
            models.model(dtype="bfloat16").load_cache(tmp_path / "after")


def test_a_save_that_fails_leaves_the_old_file(model, tmp_path: Path, monkeypatch) -> None:
    cache = filled(model)
    cache.save(tmp_path / "cache")
    before = (tmp_path / "cache").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.ShardWriter, "finish", full)
    with pytest.raises(OSError, match="No space left"):
        cache.save(tmp_path / "cache")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["cache"] and (tmp_path / "cache").read_bytes() == before
    with pytest.raises(IsADirectoryError, match="expected a file to write"):
        cache.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"save: path must be in a directory that exists, got .*absent/cache"):
        cache.save(tmp_path / "absent" / "cache")
    with pytest.raises(FileNotFoundError, match=r"load_cache: path must be a file .*absent"):
        model.load_cache(tmp_path / "absent")
    for call, name in ((cache.save, "save"), (model.load_cache, "load_cache")):
        with pytest.raises(TypeError, match=f"{name}: path must be the name of a file, got NoneType"):
            call(None)


KILLED = """
import sys, torch
from v4npu.cache import files
from v4npu.testing import models
model = models.model(dtype="bfloat16")
cache = model.new_cache(1, 200)
model(torch.zeros(1, 150, dtype=torch.int64), cache=cache)
write = files.ShardWriter.add
def add(self, name, tensor):
    write(self, name, tensor)
    if name.startswith("0.windows"):
        print("writing", flush=True)
        import time; time.sleep(60)
files.ShardWriter.add = add
cache.save(sys.argv[1])
"""


def test_a_kill_during_save_leaves_the_old_file(model, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_bytes(b"old")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    time.sleep(0.1)
    process.kill()
    process.wait()
    assert path.read_bytes() == b"old"
