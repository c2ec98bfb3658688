"""Passes of cached sequences through the layers: what they have not computed yet, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from v4npu import _C
from v4npu.cache import Cache, Sequence, unchanged_on_error
from v4npu.model.step import Step, Tables, Trace

if TYPE_CHECKING:
    from v4npu.model import Model

LARGE_CALL = 1024  # tokens from which on a call leaves enough free memory to give it back to the system
Pass = Callable[[Step, list[int]], Tensor]  # step, and which of the sequences are in it -> streams [T, m, d]


def unchanged(cache: Cache | None) -> AbstractContextManager[None]:
    """Whatever is raised within, the cache is as it was."""
    if cache is None:
        return nullcontext()
    if not isinstance(cache, Cache):
        raise TypeError(f"cache must be one of new_cache or load_cache, got {type(cache).__name__}")
    return unchanged_on_error(cache.sequences)


def refuse_derivatives(model: Model, argument: str, *inputs: Tensor) -> None:
    """ValueError where a derivative is recorded: rows are read back from pages, which hold nothing but values."""
    if model.records(*inputs):
        raise ValueError(
            f"{argument}: no gradient passes through a cache's pages, and one is being recorded;"
            " call the model under torch.no_grad(), or let neither weights nor inputs want any: requires_grad_(False)"
        )


def advance(
    model: Model,
    sequences: list[Sequence],
    rows: list[list[int]],
    one_pass: Pass,
    trace: Trace | None,
    last_only: bool = False,
) -> Tensor:
    """Appends tokens to sequences and computes them, and before them whatever the sequences still owe.

    Args:
        sequences: of one store.
        rows: new tokens of each sequence, at least one each.
        one_pass: through the layers.
        last_only: keep the last token of each sequence, however many pieces come before it.

    Returns:
        Streams [all new tokens, m, d], sequence after sequence; [num_seqs, m, d] with last_only.

    Raises:
        CacheFull: no room; as with any other exception, every sequence is left as it was.
    """
    with sequences[0].store.lock, unchanged_on_error(sequences):
        return _advance(model, sequences, rows, one_pass, trace, last_only)


def _advance(
    model: Model,
    sequences: list[Sequence],
    rows: list[list[int]],
    one_pass: Pass,
    trace: Trace | None,
    last_only: bool,
) -> Tensor:
    before = [len(s) for s in sequences]
    done: list[list[Tensor]] = [[] for _ in sequences]
    running: list[tuple[Sequence, int]] = []
    try:
        for s, ids in zip(sequences, rows, strict=True):
            s.extend(ids)
        while waiting := [i for i, s in enumerate(sequences) if s.computed < len(s)]:
            if model.one_by_one:
                waiting = waiting[:1]
            running = [(sequences[i], 1 if model.one_by_one else sequences[i].next_piece()) for i in waiting]
            streams = one_pass(_step(model, running, trace), waiting)
            parts = streams.split([n for _, n in running])
            for i, (s, n), part in zip(waiting, running, parts, strict=True):
                s.commit(n)
                if not last_only:
                    done[i].append(part[max(0, before[i] - s.computed + n) :])
                elif s.computed == len(s):
                    done[i] = [part[-1:]]
            running = []
    except BaseException:
        for s, n in running:
            s.failed(n)
        raise
    found = [part for parts in done for part in parts]
    result = found[0] if len(found) == 1 else torch.cat(found)
    if model.device.type == "cpu" and sum(map(len, rows)) >= LARGE_CALL:
        _C.release_free_heap()
    return result


def _step(model: Model, running: list[tuple[Sequence, int]], trace: Trace | None) -> Step:
    """The pass, with room made for what it writes."""
    ids: list[int] = []
    for s, n in running:
        s.prepare(n)
        ids.extend(s.tokens[s.computed : s.computed + n])
    chosen, lengths = [s for s, _ in running], [n for _, n in running]
    input_ids = torch.tensor(ids, dtype=torch.int64, device=model.device)
    step = Step(input_ids, lengths, [s.computed for s in chosen], trace)
    step.tables = Tables(chosen, lengths, model.device)
    return step
