"""One layer on the CPU, operator by operator, behind a context of any length.

The weights are random in the official formats (of the routed experts eight are drawn, the rest are copies), and the
cache is filled with random packed rows, not by prefill.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from v4npu import _C, ops, reference
from v4npu.bench.ops import WRONG, agrees
from v4npu.bench.record import Row
from v4npu.bench.timing import Peaks, limit, peak_mib, reset_peak, stats
from v4npu.cache import Sequence, Store
from v4npu.checkpoint_random import random_tensors
from v4npu.model import Config, Model
from v4npu.model.step import Step, Tables
from v4npu.reference.pages import write_rows
from v4npu.testing.bench import CONFIGS, DRAWN_EXPERTS, first, work
from v4npu.testing.compare import argument_names

RATIOS = {"window": 0, "csa": 4, "hca": 128}
FILLED = 16_384  # rows that are drawn at once
COMPARED = 32  # tokens of a call that the reference computes too
WRITTEN = ("window_cache", "cache", "state")  # views of all the memory that there is: never copied


def one_layer(sizes: str, kind: str, experts: int | None = None) -> Config:
    """A model with one layer of this kind, and next to no vocabulary."""
    config = CONFIGS[sizes]
    return replace(
        config, vocab_size=256, num_hidden_layers=1, compress_ratios=(RATIOS[kind],), num_hash_layers=0,
        num_nextn_predict_layers=0, n_routed_experts=experts or config.n_routed_experts,
    )  # fmt: skip


def layer(sizes: str, kind: str) -> Model:
    """A model of one random layer."""
    config = one_layer(sizes, kind)
    model = Model(config)
    for name, tensor in random_tensors(one_layer(sizes, kind, min(DRAWN_EXPERTS, config.n_routed_experts))):
        before, found, after = name.partition(".ffn.experts.")
        if found:
            own, _, rest = after.partition(".")
            for expert in range(int(own), config.n_routed_experts, DRAWN_EXPERTS):
                model.install(f"{before}{found}{expert}.{rest}", tensor)
        elif ".ffn.gate." in name:
            model.install(name, torch.randn(config.n_routed_experts, *tensor.shape[1:]) * tensor.float().std())
        else:
            model.install(name, tensor)
    assert not model.missing(), model.missing()
    return model


def filled(model: Model, context: int, count: int) -> tuple[Store, Sequence]:
    """A cache of `context` tokens with room for `count` more."""
    store = model.new_store(max_tokens=context + count)
    sequence = Sequence(store)
    sequence.skip(context)
    sequence.prepare(count)
    pages, config = store.layers[0], model.config
    block, ratio = store.block_tokens, config.compress_ratios[0]

    def fill(cache: Tensor | None, blocks: list[int], per_block: int, dim: int, quant: str) -> None:
        rows = (torch.tensor(blocks).unsqueeze(1) * per_block + torch.arange(per_block)).flatten()
        for part in rows.split(FILLED):
            write_rows(cache, torch.randn(len(part), dim).bfloat16(), part, config.qk_rope_head_dim, quant)

    fill(pages.window, list(sequence.window_blocks.values()), block, config.head_dim, "fp8")
    if ratio:
        fill(pages.entries, list(sequence.entry_blocks), block // ratio, config.head_dim, "fp8")
    if pages.keys is not None:
        fill(pages.keys, list(sequence.entry_blocks), block // ratio, config.index_head_dim, "hadamard_fp4")
    return store, sequence


def _expected(op: str, args: tuple[Any, ...]) -> Any:
    """The reference's results for a call's first tokens, before the call: rows of pages are then written anew."""
    given = dict(zip(argument_names(op), args, strict=False))
    state, slots = given.get("state"), given.get("state_slots")
    kept = None if state is None else state[slots]
    want = getattr(reference, op)(*first(op, args, COMPARED, WRITTEN))
    if state is not None:
        state[slots] = kept
    return want


class Watch:
    """While it is entered: what every operator of v4npu.ops takes; with `check`, whether it is right.

    Of a checked call the first tokens are computed by the reference too.
    """

    def __init__(self, check: bool = False) -> None:
        self.check, self.wrong = check, set[str]()
        self.spent = dict[str, list[float]]()  # calls, seconds, bytes, flops
        self.own = 0.0  # seconds of this class

    def __enter__(self) -> Watch:
        self.kept = {name: getattr(ops, name) for name in _C.op_names()}
        for name, kernel in self.kept.items():
            setattr(ops, name, self._watched(name, kernel))
        return self

    def __exit__(self, *_: object) -> None:
        for name, kernel in self.kept.items():
            setattr(ops, name, kernel)

    def _watched(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            entered = time.perf_counter()
            want = _expected(name, args) if self.check else None
            begin = time.perf_counter()
            out = kernel(*args)
            spent = time.perf_counter() - begin
            if self.check:
                pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (out, want)), strict=True)
                if not all(agrees(g[: len(w)], w, torch.bfloat16) for g, w in pairs):
                    self.wrong.add(name)
            row = self.spent.setdefault(name, [0.0] * 4)
            for i, value in enumerate((1, spent, *work(name, args, out))):
                row[i] += value
            self.own += time.perf_counter() - entered - spent
            return out

        return call


@torch.inference_mode()
def measure(model: Model, where: Row, context: int, tokens: int, repeats: int, roof: Peaks) -> list[Row]:
    """A row of the layer, then one per operator, the largest first: passes over the same cache, the first checked."""
    store, sequence = filled(model, context, tokens)
    config = model.config
    now = Step(torch.zeros(tokens, dtype=torch.int64), [tokens], [context])
    now.tables = Tables([sequence], [tokens], torch.device("cpu"))
    took, passes, grown = list[float](), list[dict[str, list[float]]](), list[float]()
    wrong = set[str]()
    for i in range(repeats + 1):
        streams = torch.randn(tokens, config.hc_mult, config.hidden_size).bfloat16()
        gc.collect()
        known = reset_peak()
        before = peak_mib()
        begin = time.perf_counter()
        with Watch(check=not i) as watch:
            model.layers[0](streams, now, store.layers[0])
        if not i:
            wrong = watch.wrong
            continue
        took.append(time.perf_counter() - begin - watch.own)
        grown += [peak_mib() - before] if known else []
        passes.append(watch.spent)
    where = {"kind": "block", "device": "cpu", **where, "tokens": tokens, "context": context}
    rows = []
    for op, (calls, _, moved, worked) in passes[-1].items():
        row = {**where, "op": op, "status": WRONG if op in wrong else "ok"}
        if op not in wrong:
            row |= {"calls": int(calls), "bytes": moved, "flops": worked, **stats([p[op][1] for p in passes])}
            row |= limit(row, roof)
        rows.append(row)
    rows.sort(key=lambda row: -row.get("seconds", 0))
    if wrong:
        return [{**where, "op": "layer", "status": f"wrong: {', '.join(sorted(wrong))}"}, *rows]
    whole: Row = {**where, "op": "layer", "status": "ok", **stats(took)}
    whole |= {name: sum(row[name] for row in rows) for name in ("calls", "bytes", "flops")}
    if roof is not None:
        whole["limit"] = sum(row["limit"] * row["seconds"] for row in rows) / whole["seconds"]
    if grown:
        whole["grown_MiB"] = max(grown)
    return [whole, *rows]
