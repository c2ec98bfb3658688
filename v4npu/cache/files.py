"""A cache in a file: versioned, checksummed safetensors, written whole or not at all.

What the file holds beside tokens and compressed entries follows the store's window policy:
"live" the state of every sequence as it is, which goes on without recomputing; "full" and "periodic" the window blocks
that the policy keeps, from which less than a block or a period is recomputed; "zero" nothing, at the price of
recomputing up to layers * (window - 1) tokens and a block.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from v4npu.cache.cache import Cache
from v4npu.cache.pool import Pool
from v4npu.cache.sequence import Sequence
from v4npu.cache.store import Store
from v4npu.shards import Shard, ShardWriter, parse_json

if TYPE_CHECKING:
    from v4npu.model import Model

FORMAT, VERSION = "v4npu-cache", 2
SLAB = 128  # blocks per tensor of the file: what is copied at once


def _path(call: str, path: str | Path) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{call}: path must be the name of a file, got {type(path).__name__}")
    return Path(path)


def save(path: str | Path, cache: Cache, model: Model) -> None:
    """See Cache.save."""
    path = _path("save", path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory; expected a file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save: path must be in a directory that exists, got {path}")
    store, live = cache.store, cache.store.window_policy == "live"
    sums: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        writer = ShardWriter(Path(scratch) / "cache")
        try:
            for b, s in enumerate(cache.sequences):
                for name, tensor in _tensors(s, live):
                    writer.add(f"{b}.{name}", tensor)
                    sums[f"{b}.{name}"] = _digest(tensor)
            about = {
                "version": VERSION,
                **_identity(model, store),
                "draft": cache.draft,
                "max_tokens": cache.max_tokens,
                "window_policy": store.window_policy,
                "period": store.period,
                "sequences": [_numbers(s, live) for s in cache.sequences],
                "sha256": sums,
            }
            text = json.dumps(about)
            writer.finish({"format": FORMAT, "cache": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        finally:
            writer.close()
        os.replace(writer.path, path)


def load(path: str | Path, model: Model, store: Store | None = None) -> Cache:
    """See Model.load_cache."""
    path = _path("load_cache", path)
    if not path.is_file():
        raise FileNotFoundError(f"load_cache: path must be a file that Cache.save wrote, found none at {path}")
    if not isinstance(store, (Store, NoneType)):
        raise TypeError(f"load_cache: store must be one of new_store, got {type(store).__name__}")
    shard = Shard(path)
    if shard.metadata.get("format") != FORMAT or "cache" not in shard.metadata:
        raise ValueError(f"{path}: must be a cache that v4npu saved")
    text = shard.metadata["cache"].encode()
    about = parse_json(path, text)
    if about.get("version") != VERSION:
        raise ValueError(f"{path}: cache version must be {VERSION}, got {about.get('version')!r}")
    if shard.metadata.get("sha256") != hashlib.sha256(text).hexdigest():
        raise ValueError(f"{path}: cache description does not match its checksum")
    try:
        _check_types("", about, sequences=list, max_tokens=int, draft=bool)
        held = about["sequences"]
        if not held or about["max_tokens"] < 1:
            raise ValueError("a cache must have at least one sequence, and room for a token")
        if store is None:
            policy = about["window_policy"]
            store = model.new_store(
                draft=about["draft"],
                sequences=len(held),
                max_tokens=about["max_tokens"],
                block_tokens=about["block_tokens"],
                window_policy=policy,
                period=about["period"] if policy == "periodic" else None,
            )
        for name, value in _identity(model, store).items():
            if about[name] != value:
                raise ValueError(f"the cache's {name} is {about[name]!r}, this model's is {value!r}")
        for b, numbers in enumerate(held):
            _check(numbers, store, shard, b, about["max_tokens"])
        for name in shard.entries:
            if _digest(shard.tensor(name)) != about["sha256"].get(name):
                raise ValueError(f"tensor {name!r} does not match its checksum")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: cache description is malformed: {error!r}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    sequences: list[Sequence] = []
    cache = Cache(model, store, sequences, about["max_tokens"], about["draft"])
    with store.lock:
        for b, numbers in enumerate(held):
            sequences.append(Sequence(store))  # owned before it is filled, so that a failure gives its blocks back
            _fill(sequences[-1], numbers, shard, f"{b}.", model.config.vocab_size)
    return cache


def _identity(model: Model, store: Store) -> dict[str, Any]:
    """What must be alike for the pages to mean the same."""
    return {
        "model": model.fingerprint,
        "numerics": model.numerics,
        "dtype": str(model.dtype).removeprefix("torch."),
        "ratios": list(store.ratios),
        "block_tokens": store.block_tokens,
        "packed": store.packed,
    }


def _windows(s: Sequence, live: bool) -> list[int]:
    """Numbers of the window blocks that go into the file."""
    return sorted(j for j in s.window_blocks if live or (s.store.retained(j) and j not in s.inexact))


def _numbers(s: Sequence, live: bool) -> dict[str, Any]:
    windows = _windows(s, live)
    state = live and s.state is not None
    return {
        "known": s.known,
        "entry_blocks": len(s.entry_blocks),
        "windows": windows,
        "snapshots": sorted(b for b in s.snapshots if b // s.store.block_tokens - 1 in windows),
        "live": [s.computed, s.base, s.top, s.restore] if live else None,
        "state": state,
    }


def _tensors(s: Sequence, live: bool) -> Iterator[tuple[str, Tensor]]:
    none = torch.empty(0, dtype=torch.int64, device="cpu")
    yield "tokens", torch.frombuffer(s.tokens, dtype=torch.int64) if s.tokens else none
    for name, pool, blocks in (
        ("entries", s.store.entry_pool, list(s.entry_blocks)),
        ("windows", s.store.window_pool, [s.window_blocks[j] for j in _windows(s, live)]),
        ("state", s.store.state_pool, [s.state] if live and s.state is not None else []),
    ):
        for at in range(0, len(blocks), SLAB):
            yield f"{name}.{at}", pool.bytes[blocks[at : at + SLAB]]


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().view(torch.uint8).flatten()
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def _check_types(where: str, values: dict[str, Any], **types: type) -> None:
    """Raises ValueError unless values are of exactly these types: 150.0 and True are no numbers of tokens."""
    for key, wanted in types.items():
        if type(values[key]) is not wanted:
            raise ValueError(f"{where}{key} must be of type {wanted.__name__}, got {values[key]!r}")


def _check(numbers: dict[str, Any], store: Store, shard: Shard, b: int, max_tokens: int) -> None:
    """Raises ValueError unless what the file says about sequence b is possible, and its tensors are of that size."""
    dtype, shape = shard.entries[f"{b}.tokens"][:2]
    if dtype != torch.int64 or len(shape) != 1 or shape[0] > max_tokens:
        raise ValueError(f"tokens of sequence {b} must be int64 [at most {max_tokens}], got {dtype} {list(shape)}")
    tokens, block = shape[0], store.block_tokens
    _check_types(f"sequence {b}: ", numbers, known=int, entry_blocks=int, windows=list, snapshots=list, state=bool)
    known, blocks, windows, snapshots = (numbers[key] for key in ("known", "entry_blocks", "windows", "snapshots"))
    last = -(-tokens // block)
    if not 0 <= known <= tokens or blocks != (-(-known // block) if store.layout.entry_block else 0):
        raise ValueError(f"sequence {b}: {blocks} entry blocks and {known} known of {tokens} tokens do not fit")
    if windows != sorted(set(windows)) or any(type(j) is not int or not 0 <= j < last for j in windows):
        raise ValueError(f"sequence {b}: windows must be ascending numbers of its {last} blocks")
    if any(type(n) is not int or n % block or n // block - 1 not in windows for n in snapshots):
        raise ValueError(f"sequence {b}: snapshots must lie behind its window blocks")
    live = numbers["live"]
    if numbers["state"] and (live is None or not store.layout.open_state):
        raise ValueError(f"sequence {b}: it can have no open state")
    if live is not None:
        if not isinstance(live, list) or [type(n) for n in live] != [int, int, int, bool]:
            raise ValueError(f"sequence {b}: live must be three integers and true or false, got {live!r}")
        computed, base, top, restore = live
        if not (0 <= computed <= known and 0 <= base <= max_tokens and computed <= top <= max_tokens):
            raise ValueError(f"sequence {b}: its position is out of range")
        if restore and computed not in snapshots:
            raise ValueError(f"sequence {b}: there is no snapshot where it restarts")
        first = max(0, computed - store.window + 1) // block
        if computed >= base and any(j not in windows for j in range(first, -(-computed // block))):
            raise ValueError(f"sequence {b}: the window before token {computed} is missing")
        went_on = computed > base or (computed == base > 0 and store.replay_depth > 0)
        if store.layout.open_state and went_on and not restore and not numbers["state"]:
            raise ValueError(f"sequence {b}: its open state must be there")
    for name, pool, count in (
        ("entries", store.entry_pool, blocks),
        ("windows", store.window_pool, len(windows)),
        ("state", store.state_pool, int(numbers["state"])),
    ):
        for at in range(0, count, SLAB):
            expected = (min(SLAB, count - at), pool.block_bytes)
            if shard.entries[f"{b}.{name}.{at}"][:2] != (torch.uint8, expected):
                raise ValueError(f"tensor '{b}.{name}.{at}' must be uint8 {list(expected)}")


def _fill(s: Sequence, numbers: dict[str, Any], shard: Shard, prefix: str, vocab_size: int) -> None:
    tokens = shard.tensor(f"{prefix}tokens")
    if len(tokens) and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size):
        raise ValueError(f"{shard.path}: tokens must be in 0..{vocab_size - 1}")
    s.tokens = array("q", tokens.tolist())

    def blocks(pool: Pool, name: str, count: int) -> Iterator[int]:
        for at in range(0, count, SLAB):
            for row in shard.tensor(f"{prefix}{name}.{at}"):
                block = pool.allocate()
                pool.bytes[block] = row.to(pool.bytes.device)
                yield block
            shard.release(f"{prefix}{name}.{at}")

    for block in blocks(s.store.entry_pool, "entries", numbers["entry_blocks"]):
        s.entry_blocks.append(block)
    for j, block in zip(
        numbers["windows"], blocks(s.store.window_pool, "windows", len(numbers["windows"])), strict=True
    ):
        s.window_blocks[j] = block
    s.snapshots, s.known = set(numbers["snapshots"]), numbers["known"]
    if numbers["live"] is None:
        s.restart(s.known)
        return
    for block in blocks(s.store.state_pool, "state", int(numbers["state"])):
        s.state = block
    s.computed, s.base, s.top, s.restore = numbers["live"]
    s.inexact = set(s.window_blocks)  # or not: the file does not say
