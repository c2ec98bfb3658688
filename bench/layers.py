#!/usr/bin/env python3
"""One CSA and one HCA layer of V4-Flash on the CPU: what each operator takes, and what this machine could do.

    python bench/layers.py --kind csa            decode behind 8K, 64K, 256K and 1M tokens, and a prefill chunk
    python bench/layers.py --kind hca --json     JSON lines
    python bench/layers.py --contexts 8192 --chunk 0

Every size is the Flash preset's, the weights are random in the official formats (of the routed experts eight are
drawn, the rest are copies), and the cache is filled with random packed rows, not by prefill. Peaks are measured first:
bytes read from memory, and multiply-adds of torch's GEMM. An operator's floor is the slower of its bytes, each row that
it needs read once, and its multiply-adds at those peaks. Of several steps on different tokens the fastest is shown.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import torch
import typer
from model import peak_mib, reset_peak
from rich.console import Console
from rich.table import Table
from torch import Tensor

from v4npu import _C, ops
from v4npu.bench.timing import Clock, peaks
from v4npu.cache import Sequence, Store
from v4npu.checkpoint_random import random_tensors
from v4npu.model import Config, Model
from v4npu.model.step import Step, Tables
from v4npu.reference.pages import write_rows
from v4npu.testing.bench import DRAWN_EXPERTS, work

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
FILLED = 16_384  # rows that are drawn at once
CONTEXTS = (8_192, 65_536, 262_144, 1_048_576)  # of decode
CHUNK, CHUNK_CONTEXTS = 4_096, (8_192, 65_536)


def flash_layer(ratio: int, experts: int | None = None) -> Config:
    """V4-Flash with one layer, of this compression ratio, and next to no vocabulary."""
    config = Config.preset("flash")
    return replace(
        config, vocab_size=256, num_hidden_layers=1, compress_ratios=(ratio,), num_hash_layers=0,
        num_nextn_predict_layers=0, n_routed_experts=experts or config.n_routed_experts,
    )  # fmt: skip


def layer(ratio: int) -> Model:
    """A model of one random layer."""
    config, drawn = flash_layer(ratio), flash_layer(ratio, DRAWN_EXPERTS)
    model = Model(config)
    for name, tensor in random_tensors(drawn):
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
    fill(pages.entries, list(sequence.entry_blocks), block // ratio, config.head_dim, "fp8")
    if pages.keys is not None:
        fill(pages.keys, list(sequence.entry_blocks), block // ratio, config.index_head_dim, "hadamard_fp4")
    return store, sequence


# ---- steps


class Spent:
    """Times every operator of v4npu.ops while it is entered."""

    def __init__(self) -> None:
        self.rows = dict[str, list[float]]()
        self.counting = 0.0  # seconds of this class's own
        self.names = [n for n in _C.op_names() if hasattr(ops, n)]

    def __enter__(self) -> Spent:
        self.kept = {name: getattr(ops, name) for name in self.names}
        for name, kernel in self.kept.items():
            setattr(ops, name, self._timed(name, kernel))
        return self

    def __exit__(self, *_: object) -> None:
        for name, kernel in self.kept.items():
            setattr(ops, name, kernel)

    def _timed(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            out = kernel(*args, **named)
            spent = time.perf_counter() - begin
            row = self.rows.setdefault(name, [0.0] * 4)
            for i, value in enumerate((1, spent, *work(name, args, out))):
                row[i] += value
            self.counting += time.perf_counter() - begin - spent
            return out

        return call


@torch.inference_mode()
def step(model: Model, context: int, count: int, repeats: int) -> dict[str, Any]:
    """The fastest of `repeats` passes of `count` tokens behind `context`, each over the same cache."""
    store, sequence = filled(model, context, count)
    config = model.config
    now = Step(torch.zeros(count, dtype=torch.int64), [count], [context])
    now.tables = Tables([sequence], [count], torch.device("cpu"))
    best: dict[str, Any] = {"seconds": float("inf")}
    for _ in range(repeats):
        streams = torch.randn(count, config.hc_mult, config.hidden_size).bfloat16()
        gc.collect()
        reset_peak()
        before = peak_mib()
        begin = time.perf_counter()
        with Spent() as spent:
            model.layers[0](streams, now, store.layers[0])
        seconds = time.perf_counter() - begin - spent.counting
        if seconds < best["seconds"]:
            best = {"context": context, "tokens": count, "seconds": seconds, "grown_MiB": peak_mib() - before,
                    "ops": spent.rows}  # fmt: skip
    return best


def rows_of(kind: str, result: dict[str, Any], read: float, flops: float) -> list[dict[str, Any]]:
    """One row per operator, the largest first, and one of the whole."""
    rows = []
    for op, (calls, seconds, moved, worked) in sorted(result["ops"].items(), key=lambda item: -item[1][1]):
        rows.append({"layer": kind, "context": result["context"], "tokens": result["tokens"], "op": op, "calls": calls,
                     "seconds": seconds, "bytes": moved, "flops": worked,
                     "limit": max(moved / read, worked / flops) / seconds})  # fmt: skip
    total = {name: sum(row[name] for row in rows) for name in ("calls", "bytes", "flops")}
    floor = sum(row["limit"] * row["seconds"] for row in rows)
    whole = {"op": "layer", "seconds": result["seconds"], "limit": floor / result["seconds"], **total}
    return [{**rows[0], **whole, "grown_MiB": result["grown_MiB"]}, *rows]


def show(rows: list[dict[str, Any]], title: str, read: float) -> None:
    table = Table(title=title)
    for column in ("op", "calls", "ms", "MB", "GF", "GB/s", "GF/s", "of floor"):
        table.add_column(column, justify="left" if column == "op" else "right")
    whole = 0.0
    for row in rows:
        name, s = row["op"], row["seconds"]
        if name == "layer":
            whole, name = s, f"{row['layer']}, {row['tokens']:,} behind {row['context']:,}"
            table.add_section()
        if s < 0.01 * whole:
            continue
        rates = (f"{row['bytes'] / s / 1e9:.2f}", f"{row['flops'] / s / 1e9:.0f}", f"{row['limit']:.0%}")
        table.add_row(name, str(int(row["calls"])), f"{s * 1e3:,.2f}", f"{row['bytes'] / 1e6:,.2f}",
                      f"{row['flops'] / 1e9:,.2f}", *rates)  # fmt: skip
    console = Console()
    console.print(table)
    decode = [row for row in rows if row["tokens"] == 1]
    for op, said in (("csa_attention", "takes {0:.2f} of what it takes behind the shortest"),
                     ("indexer_topk", "reads FP4 rows at {1:.1%} of the read peak"),
                     ("hca_attention", "is at {2:.0%} of its floor")):  # fmt: skip
        of = [row for row in decode if row["op"] == op]
        for row in of:
            share = row["bytes"] / row["seconds"] / read
            text = said.format(row["seconds"] / of[0]["seconds"], share, row["limit"])
            console.print(f"{op} behind {row['context']:,} tokens {text}")
    for row in rows:
        if row["op"] == "layer" and row["tokens"] > 1:
            console.print(
                f"{row['tokens']:,} tokens behind {row['context']:,}: memory grew by {row['grown_MiB']:,.0f} MiB"
            )


@app.command()
def run(
    kind: Annotated[str, typer.Option(help="csa or hca.")] = "csa",
    contexts: Annotated[str, typer.Option(help="Of decode.")] = ",".join(map(str, CONTEXTS)),
    chunk: Annotated[int, typer.Option(help="Tokens of a prefill chunk; 0 leaves it out.")] = CHUNK,
    chunk_contexts: Annotated[str, typer.Option(help="Behind which.")] = ",".join(map(str, CHUNK_CONTEXTS)),
    repeats: Annotated[int, typer.Option(help="Decode steps of each.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Measure."""
    read, flops = peaks(Clock(torch.device("cpu")), torch.bfloat16) or (0.0, 0.0)
    model = layer({"csa": 4, "hca": 128}[kind])
    rows: list[dict[str, Any]] = []
    for context in filter(None, contexts.split(",")):
        rows += rows_of(kind, step(model, int(context), 1, repeats), read, flops)
    for context in filter(None, chunk_contexts.split(",") if chunk else []):
        rows += rows_of(kind, step(model, int(context), chunk, 1), read, flops)
    where = {"isa": _C.cpu_isas()[0], "threads": torch.get_num_threads(), "read_peak": read, "gemm_peak": flops}
    if as_json:
        for row in rows:
            print(json.dumps({**row, **where}))
        return
    title = f"{where['isa']}, {where['threads']} threads, bfloat16, official; "
    show(rows, title + f"read {read / 1e9:.1f} GB/s, torch GEMM {flops / 1e9:.0f} GF/s", read)


if __name__ == "__main__":
    app()
