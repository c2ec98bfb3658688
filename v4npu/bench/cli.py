"""`v4npu bench`: the options of each measurement. What measures is imported when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from v4npu.bench.record import Row
    from v4npu.bench.timing import Clock

app = typer.Typer(no_args_is_help=True, help="Measure operators, a layer or a model here; compare and report.")
SIZES = ("small", "flash", "pro")
DTYPES = ("bfloat16", "float32")
MOST = 1 << 24  # tokens

Files = Annotated[list[Path], typer.Argument(metavar="FILES", help="Written by --json.")]
JsonFile = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write JSON lines there; - is stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda[:i] or npu[:i].")]
Isa = Annotated[str | None, typer.Option(help="Instruction set of the CPU kernels, such as avx2; the best without.")]
Threads = Annotated[int | None, typer.Option(min=1, max=4096, help="Of the CPU; torch's choice without.")]


def chosen(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{option} {value!r} is none of {', '.join(known)}")
    return value


def numbers(option: str, text: str, least: int = 1) -> list[int]:
    """Whole numbers between commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and least <= int(part[:12]) <= MOST for part in parts):
        raise ValueError(f"{option} must be numbers from {least} to {MOST} between commas, got {text!r}")
    return [int(part) for part in parts]


def steps_of(text: str) -> list[tuple[int, int]]:
    """Tokens and where they end, of TOKENS@END between commas."""
    found = []
    for part in filter(None, text.split(",")):
        pair = numbers("--steps", part.replace("@", ","))
        if len(pair) != 2 or pair[0] > pair[1]:
            raise ValueError(f"--steps must be TOKENS@END between commas, TOKENS at most END, got {text!r}")
        found.append((pair[0], pair[1]))
    return found


@contextmanager
def measuring(device: str, threads: int | None, isa: str | None) -> Iterator[Clock]:
    """A clock of the device, which exists, in a process set as asked."""
    import torch

    from v4npu import _C
    from v4npu.bench.ops import configured
    from v4npu.bench.record import SEED
    from v4npu.bench.timing import Clock
    from v4npu.device import resolve

    where = resolve(device)
    if isa:
        chosen("--isa", isa, _C.cpu_isas())
    with configured(threads, isa):
        torch.manual_seed(SEED)
        yield Clock(where)


def run(json_file: str | None, first: Row, batches: Iterable[Sequence[Row]], count: int) -> None:
    """Measures; writes rows as they come and shows them at the end.

    Raises:
        RuntimeError: a row is wrong.
    """
    from rich.console import Console
    from rich.progress import track

    from v4npu.bench.record import replacing, write
    from v4npu.bench.table import cells, headline
    from v4npu.tables import print_table

    rows: list[Row] = []
    with replacing("--json", json_file, keep=True) if json_file is not None else nullcontext() as file:
        write(file, first)
        console = Console(stderr=True)
        bar = track(batches, "measuring", count, console=console, transient=True, disable=not console.is_terminal)
        for batch in bar:
            for row in batch:
                rows.append(row)
                write(file, row)
    if json_file != "-":
        print_table(headline(first), *cells(rows[0]["kind"], rows))
    if wrong := [row for row in rows if row["status"].startswith("wrong")]:
        names = sorted({row.get("op") or row["engine"] for row in wrong})
        raise RuntimeError(f"no time for what is wrong: {', '.join(names)} ({wrong[0]['status']})")


@app.command()
def ops(
    op: Annotated[list[str] | None, typer.Option(help="May be repeated; every operator without.")] = None,
    sizes: Annotated[str, typer.Option(help=f"Whose layer: {', '.join(SIZES)}.")] = "flash",
    dtype: Annotated[str, typer.Option(help="bfloat16, or float32 (operators over pages are left out).")] = "bfloat16",
    tokens: Annotated[str, typer.Option(help="Rows of each call.")] = "1,8,128,512,2048",
    steps: Annotated[
        str, typer.Option(help="Of operators over pages: tokens of one sequence @ where they end.")
    ] = "1@8192,1@65536,512@8192",
    device: Device = "cpu",
    isa: Isa = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0, max=3600, help="Per measurement; three calls at least.")] = 0.3,
    json_file: JsonFile = None,
) -> None:
    """Time every operator against this machine's peaks, measured first.

    A time is given only after the result agreed with the plain-torch reference: integers and quantised bytes exactly,
    the rest to 1e-4 (--dtype float32) or 2e-2 (bfloat16) of the largest value. "of the limit" is against the slower of
    two floors: bytes, each row that is needed read once, at the read peak of memory (what fits a cache may beat it),
    and multiply-adds at the peak of torch's own GEMM in that dtype or in float32. Times are medians.

    Example: v4npu bench ops --op linear --dtype float32 --threads 2 --json rows.jsonl
    """
    import torch

    from v4npu import _C
    from v4npu.bench.ops import cases, measure
    from v4npu.bench.record import environment
    from v4npu.bench.timing import peaks

    chosen("--sizes", sizes, SIZES)
    kind = getattr(torch, chosen("--dtype", dtype, DTYPES))
    for name in op or []:
        chosen("--op", name, _C.op_names())
    todo = cases(op or [], kind, numbers("--tokens", tokens), steps_of(steps))
    if not todo:
        raise ValueError(
            "nothing to measure: operators over pages are bfloat16, and --tokens or --steps must name some"
        )
    with measuring(device, threads, isa) as clock:
        roof = peaks(clock, kind)
        rows = ([measure(clock, case, kind, sizes, seconds, roof)] for case in todo)
        run(json_file, environment(clock, roof), rows, len(todo))


@app.command()
def block(
    kind: Annotated[str, typer.Option(help="Of its attention: csa, hca or window.")] = "csa",
    sizes: Annotated[str, typer.Option(help=f"Whose layer: {', '.join(SIZES)}.")] = "flash",
    contexts: Annotated[str, typer.Option(help="Tokens before a step of decode.")] = "8192,65536,262144,1048576",
    chunk: Annotated[int, typer.Option(min=0, max=MOST, help="Tokens of a prefill chunk; 0 leaves it out.")] = 4096,
    chunk_contexts: Annotated[str, typer.Option(help="Tokens before the chunk.")] = "8192,65536",
    repeats: Annotated[int, typer.Option(min=1, max=MOST, help="Steps of decode; of a chunk one is timed.")] = 8,
    isa: Isa = None,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Time one layer on the CPU, bfloat16 in official numerics, and each operator in it.

    The weights are random in the official formats; the cache holds random packed rows. A pass before the timed ones
    compares the first 32 tokens of every call with the plain-torch reference; an operator that is wrong gets no time,
    nor does its layer. Floors are those of `v4npu bench ops`; a layer's is the sum of its operators'.

    Example: v4npu bench block --kind hca --contexts 8192 --chunk 0
    """
    import torch

    from v4npu.bench.block import RATIOS, layer, measure
    from v4npu.bench.record import environment
    from v4npu.bench.timing import peaks

    chosen("--sizes", sizes, SIZES)
    chosen("--kind", kind, tuple(RATIOS))
    todo = [(context, 1, repeats) for context in numbers("--contexts", contexts)]
    todo += [(context, chunk, 1) for context in numbers("--chunk-contexts", chunk_contexts) if chunk]
    if not todo:
        raise ValueError("nothing to measure: --contexts is empty and --chunk is 0")
    with measuring("cpu", threads, isa) as clock:
        roof, model = peaks(clock, torch.bfloat16), layer(sizes, kind)
        where = {"layer": kind, "sizes": sizes, "dtype": "bfloat16", "numerics": "official"}
        run(json_file, environment(clock, roof), (measure(model, where, *case, roof) for case in todo), len(todo))


@app.command()
def model(
    name: Annotated[str, typer.Argument(metavar="[MODEL]", help="nano, a checkpoint directory, or random.")] = "nano",
    prompts: Annotated[str, typer.Option(help="Prompt lengths.")] = "0,512,2048,4096",
    new: Annotated[int, typer.Option(min=1, max=MOST, help="Tokens decoded behind each prompt.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, max=MOST, help="Runs of each.")] = 3,
    numerics: Annotated[str, typer.Option(help="official or exact; with --enable it is exact.")] = "official",
    dtype: Annotated[str, typer.Option(help=f"{' or '.join(DTYPES)}.")] = "bfloat16",
    strict: Annotated[bool, typer.Option("--strict", help="Bit for bit independent of batch and chunks.")] = False,
    transformers: Annotated[bool, typer.Option("--transformers", help="Measure transformers' model too.")] = False,
    enable: Annotated[
        bool, typer.Option("--enable", help="Measure transformers' model by turns without and with v4npu.enable.")
    ] = False,
    device: Device = "cpu",
    isa: Isa = None,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Time prefill and decode of a whole model, batch 1.

    `random` is a model of 8 layers with ratios 0 0 4 128 4 128 4 128, hidden 1024, 16 heads of 512, 32 experts of 512,
    vocabulary 129,280, FP8 attention and FP4 experts. transformers' has the same shape and random weights. Before an
    engine is timed, its logits behind 131 tokens must be finite and, when these come in three pieces, the last of one
    token, the same to 5e-2 (bfloat16) or 1e-3 (float32) of the largest. Times are medians of whole prompts and of all
    the tokens decoded behind them.

    Example: v4npu bench model random --transformers --json rows.jsonl
    """
    import torch

    from v4npu.bench import model as whole
    from v4npu.bench.record import environment
    from v4npu.bench.timing import peaks

    chosen("--dtype", dtype, DTYPES)
    chosen("--numerics", numerics, ("official", "exact"))
    lengths = numbers("--prompts", prompts, 0)
    if not lengths or (enable and transformers):
        raise ValueError("--prompts must name a length, and --enable and --transformers go one without the other")
    whole.config_of(name, lengths, new)  # what is wrong with it is said before anything is measured
    with measuring(device, threads, isa) as clock:
        first = environment(clock, peaks(clock, getattr(torch, dtype)))
        load = {"device": str(clock.device), "dtype": dtype, "numerics": numerics, "strict": strict}
        ours = () if enable else whole.rows_of_v4npu(name, load, lengths, new, repeats)
        theirs = whole.rows_of_transformers(name, load, lengths, new, repeats, enable) if transformers or enable else ()
        run(json_file, first, chain(ours, theirs), (1 + transformers) * (1 + len(lengths)))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A file written by --json, before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, after.")],
    fail: Annotated[
        float | None, typer.Option(min=0, max=1e6, metavar="PERCENT", help="Fail if a row takes more than this longer.")
    ] = None,
    by: Annotated[str, typer.Option(help="median or best.")] = "median",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")] = False,
) -> None:
    """Times of B over those of A, row by row, and their geometric mean.

    Rows are the same if operator or engine, sizes, dtype, numerics, tokens, context and device are; of rows that a
    file has twice the last counts. Exit status 1 if a row of B is wrong, or with --fail if one is that much slower;
    without --fail slower rows fail nothing.

    Example: v4npu bench compare before.jsonl after.jsonl --fail 5
    """
    import json

    from v4npu.bench.compare import compare as beside
    from v4npu.bench.read import read
    from v4npu.tables import print_table

    found = beside(read(a), read(b), chosen("--by", by, ("median", "best")))
    for text in found.warnings:
        print(f"v4npu: {text}", file=sys.stderr)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        print_table(f"A: {a}\nB: {b}\n{by} times", ("", "A", "B", "B/A"), found.cells())
        if found.geomean is not None:
            print(f"geometric mean of B/A: {found.geomean:.3f} over {len(found.pairs)} rows")
    if bad := found.failures(fail):
        raise RuntimeError(bad)


@app.command()
def report(
    files: Files,
    output: Annotated[str, typer.Option("--output", "-o", help="The page; - is stdout.")] = "report.html",
) -> None:
    """One HTML page of files that --json wrote: environments, tables, charts. It loads nothing from anywhere.

    Example: v4npu bench report *.jsonl -o report.html
    """
    from v4npu.bench.read import read
    from v4npu.bench.record import replacing
    from v4npu.bench.report import page

    if any(Path(output).resolve() == path.resolve() for path in files):
        raise ValueError(f"--output {output}: it is one of the files")
    text = page([(path.name, read(path)) for path in files])
    with replacing("--output", output) as file:
        file.write(text)
