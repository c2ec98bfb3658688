"""`v4npu bench`: the options of each measurement. What measures is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from v4npu.bench.record import Row
    from v4npu.bench.timing import Clock

app = typer.Typer(no_args_is_help=True, help="Measure operators, a layer or a model here; compare and report.")
SIZES = ("small", "flash", "pro")
DTYPES = ("bfloat16", "float32")
MOST = 1 << 24  # tokens

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


def run(json_file: str | None, first: Row, cases: Sequence[Any], rows_of: Callable[[Any], Sequence[Row]]) -> None:
    """Measures each case; writes rows as they come and shows them at the end.

    Raises:
        RuntimeError: a row is wrong.
    """
    from rich.console import Console
    from rich.progress import track

    from v4npu.bench.record import rows_to, write
    from v4npu.bench.table import cells, headline
    from v4npu.tables import print_table

    rows: list[Row] = []
    with rows_to(json_file) as file:
        write(file, first)
        console = Console(stderr=True)
        for case in track(cases, "measuring", console=console, transient=True, disable=not console.is_terminal):
            for row in rows_of(case):
                rows.append(row)
                write(file, row)
    if rows and json_file != "-":
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
    the rest to 1e-4 (float32) or 2e-2 (bfloat16) of the largest value. "of the limit" is against the slower of two
    floors: bytes, each row that is needed read once, at the read peak of memory (what fits a cache may beat it), and
    multiply-adds at the peak of torch's own GEMM in that dtype or in float32. Times are medians.

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
        run(json_file, environment(clock, roof), todo, lambda c: [measure(clock, c, kind, sizes, seconds, roof)])
