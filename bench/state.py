#!/usr/bin/env python3
"""What state costs and saves, on the bundled model: long context, shared prefixes, files, guesses.

    python bench/state.py long --text corpus/*.txt --tokens 1000000     prefill, decode, save, load, another chunk size
    python bench/state.py prefix --text corpus/moby_dick.txt            time to the first token, cold and after a hit
    python bench/state.py files --text corpus/moby_dick.txt             the window policies: bytes, seconds, tokens owed
    python bench/state.py draft                                         MTP decoding: acceptance and speed

Rows go to stdout as a table, or as JSON lines with --json; progress goes to stderr. Every row names device, dtype and
threads. A result that does not agree with its check raises instead of being printed.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import v4npu
from v4npu.bench.timing import peak_mib
from v4npu.cache import Cache
from v4npu.engine import Engine
from v4npu.model import Model
from v4npu.speculative import Acceptance

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
Texts = Annotated[list[Path], typer.Option(help="UTF-8 text, used in this order.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")]
Dtype = Annotated[str, typer.Option(help="bfloat16 or float32.")]
Numerics = Annotated[str, typer.Option(help="official or exact.")]


class Rows:
    """Results, printed together at the end."""

    def __init__(self, model: Model) -> None:
        self.rows: list[dict[str, Any]] = []
        dtype = str(model.dtype).removeprefix("torch.")
        self.where: dict[str, Any] = {"device": str(model.device), "dtype": dtype, "numerics": model.numerics}
        self.where["threads"] = torch.get_num_threads()

    def add(self, **row: Any) -> None:
        self.rows.append(row)

    def show(self, as_json: bool) -> None:
        if as_json:
            for row in self.rows:
                print(json.dumps({**row, **self.where}))
            return
        table = Table(title=", ".join(f"{k} {v}" for k, v in self.where.items()))
        for name in self.rows[0]:
            table.add_column(name.replace("_", " "), justify="right")
        for row in self.rows:
            table.add_row(*(f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" if type(v) is int else str(v)
                            for v in row.values()))  # fmt: skip
        Console().print(table)


def read(model: Model, texts: list[Path], count: int) -> list[int]:
    assert model.tokenizer is not None
    ids: list[int] = []
    for path in texts:
        if len(ids) < count:
            ids += model.tokenizer.encode(path.read_text(encoding="utf-8"))
    if len(ids) < count:
        raise typer.BadParameter(f"the texts hold {len(ids):,} tokens, {count:,} are wanted")
    return ids[:count]


@torch.inference_mode()
def prefill(model: Model, cache: Cache, ids: list[int], chunk: int, title: str) -> tuple[float, torch.Tensor]:
    """Seconds, and the last logits."""
    begin = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=len(ids))
        for at in range(0, len(ids), chunk):
            logits = model(torch.tensor([ids[at : at + chunk]]), cache=cache, last_only=True)
            bar.update(task, completed=at + chunk)
    return time.perf_counter() - begin, logits[0, -1]


@torch.inference_mode()
def decode(model: Model, cache: Cache, logits: torch.Tensor, count: int) -> tuple[float, list[int]]:
    """Seconds, and `count` greedy ids."""
    begin, ids = time.perf_counter(), []
    for _ in range(count):
        ids.append(int(logits.argmax()))
        logits = model(torch.tensor([ids[-1:]]), cache=cache)[0, -1]
    return time.perf_counter() - begin, ids


@app.command()
def long(
    text: Texts,
    tokens: Annotated[int, typer.Option(help="Length of the prompt.")] = 1_000_000,
    chunk: Annotated[int, typer.Option(help="Tokens per call.")] = 4096,
    other_chunk: Annotated[int, typer.Option(help="Of the second run; 0 leaves it out.")] = 3000,
    new: Annotated[int, typer.Option(help="Tokens decoded behind it.")] = 32,
    dtype: Dtype = "float32",
    numerics: Numerics = "exact",
    strict: Annotated[bool, typer.Option(help="Bit for bit the same, whatever the chunks.")] = True,
    as_json: AsJson = False,
) -> None:
    """A long prompt in chunks, then decoding: from the cache, from its file, and after other chunks."""
    model = v4npu.load("nano", dtype=dtype, numerics=numerics, strict=strict)
    ids, rows = read(model, text, tokens), Rows(model)
    base = peak_mib()
    cache = model.new_cache(1, tokens + new)
    seconds, logits = prefill(model, cache, ids, chunk, f"prefill by {chunk}")
    formula, held = cache.store.bytes_for(tokens), cache.nbytes
    assert held <= formula, (held, formula)
    rows.add(what=f"prefill by {chunk}", tokens=tokens, seconds=seconds, tokens_per_second=tokens / seconds,
             cache_bytes=held, formula_bytes=formula, peak_MiB_above_model=peak_mib() - base)  # fmt: skip
    blank = {"cache_bytes": "", "formula_bytes": "", "peak_MiB_above_model": ""}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        cache.save(Path(folder) / "cache")
        rows.add(what="save", tokens=tokens, seconds=time.perf_counter() - begin, tokens_per_second="", **blank)
        seconds, said = decode(model, cache, logits, new)
        rows.add(what="decode", tokens=new, seconds=seconds, tokens_per_second=new / seconds, **blank)
        begin = time.perf_counter()
        loaded = model.load_cache(Path(folder) / "cache")
        rows.add(what="load", tokens=tokens, seconds=time.perf_counter() - begin, tokens_per_second="", **blank)
    again = decode(model, loaded, logits, new)[1]
    assert again == said, "the loaded cache goes on differently"
    del cache, loaded
    if other_chunk:
        cache = model.new_cache(1, tokens + new)
        seconds, logits = prefill(model, cache, ids, other_chunk, f"prefill by {other_chunk}")
        assert decode(model, cache, logits, new)[1] == said, "other chunks go on differently"
        rows.add(what=f"prefill by {other_chunk}", tokens=tokens, seconds=seconds, tokens_per_second=tokens / seconds,
                 **blank)  # fmt: skip
    rows.show(as_json)
    assert model.tokenizer is not None
    Console(stderr=True).print(f"goes on, each time: {model.tokenizer.decode(said)!r}")


@app.command()
def prefix(
    text: Texts,
    tokens: Annotated[int, typer.Option(help="Length of the shared prompt.")] = 32_768,
    dtype: Dtype = "bfloat16",
    numerics: Numerics = "official",
    as_json: AsJson = False,
) -> None:
    """Time to the first token of two requests that share a prompt."""
    model = v4npu.load("nano", dtype=dtype, numerics=numerics)
    ids, rows = read(model, text, tokens + 1), Rows(model)
    for policy, period in (("full", None), ("periodic", 2048), ("zero", None)):
        options = {"max_bytes": 1 << 31, "prefix_bytes": 1 << 30, "chunk_tokens": 4096}
        engine = Engine(model, window_policy=policy, period=period, **options)
        seconds, said = [], []
        for last in (ids[-1], ids[-1], ids[0]):  # cold; the same again; the same prompt with another end
            begin = time.perf_counter()
            engine.add([*ids[:-1], last], max_new_tokens=1)
            said.append(next(engine.run()).token)
            seconds.append(time.perf_counter() - begin)
        if policy != "zero" or dtype == "float32":
            assert said[0] == said[1], (policy, said)
        rows.add(policy=policy, tokens=tokens, cold_seconds=seconds[0], hit_seconds=max(seconds[1:]),
                 ratio=seconds[0] / max(seconds[1:]), prefix_MiB=engine.prefixes.nbytes / 2**20)  # fmt: skip
    rows.show(as_json)


@app.command()
def files(
    text: Texts,
    tokens: Annotated[int, typer.Option(help="Length of the prompt.")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """The window policies of a file: what each writes, and what is owed after loading."""
    model = v4npu.load("nano")
    ids, rows = read(model, text, tokens + 1), Rows(model)
    for policy, period in (("live", None), ("full", None), ("periodic", 4096), ("zero", None)):
        store = model.new_store(max_tokens=tokens + 8, window_policy=policy, period=period)
        cache = model.new_cache(1, tokens + 8, store=store)
        prefill(model, cache, ids[:-1], 4096, policy)
        with tempfile.TemporaryDirectory() as folder:
            path, times = Path(folder) / "cache", [time.perf_counter()]
            cache.save(path)
            times.append(time.perf_counter())
            loaded = model.load_cache(path)
            times.append(time.perf_counter())
            owed = tokens - loaded.sequences[0].computed
            with torch.inference_mode():
                model(torch.tensor([ids[-1:]]), cache=loaded)
            times.append(time.perf_counter())
            saved, read_, first = (b - a for a, b in itertools.pairwise(times))
            rows.add(policy=policy, tokens=tokens, file_MiB=path.stat().st_size / 2**20, save_seconds=saved,
                     load_seconds=read_, tokens_owed=owed, next_token_seconds=first)  # fmt: skip
    rows.show(as_json)


@app.command()
def draft(
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "Call me Ishmael.",
    new: Annotated[int, typer.Option(help="Tokens to generate.")] = 200,
    dtype: Dtype = "float32",
    numerics: Numerics = "exact",
    repeats: Annotated[int, typer.Option(help="Runs of each; the fastest counts.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Greedy decoding with guesses of the MTP head: the same text, how many guesses hold, how much faster."""
    model = v4npu.load("nano", dtype=dtype, numerics=numerics)
    rows, plain, base = Rows(model), "", 0.0
    for guesses in range(5):
        best = float("inf")
        for _ in range(repeats):
            report, begin = Acceptance(), time.perf_counter()
            said = "".join(model.generate(prompt, max_new_tokens=new, draft_tokens=guesses, acceptance=report))
            best = min(best, time.perf_counter() - begin)
        if not guesses:
            plain, base = said, best
        assert said == plain, f"{guesses} guesses change the text"
        rows.add(guesses=guesses, tokens=new, seconds=best, acceptance=report.rate,
                 tokens_per_pass=report.tokens_per_pass or 1.0, speed_up=base / best)  # fmt: skip
    rows.show(as_json)


if __name__ == "__main__":
    app()
