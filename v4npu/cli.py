"""The command line: generate, perplexity, inspect, doctor, build-kernels, emulate, bench.

Results go to stdout, progress and prose to stderr. Exit status: 0 done, 2 wrong arguments or unusable input (one line
says which), 1 failed. V4NPU_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v4npu import __version__
from v4npu.bench.cli import app as bench

if TYPE_CHECKING:
    from v4npu.model import Config, Model

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run and inspect DeepSeek-V4 models. MODEL is `nano` (bundled) or a checkpoint directory.",
)
app.add_typer(bench, name="bench")
ModelArgument = Annotated[str, typer.Argument(metavar="[MODEL]", help="`nano`, or a checkpoint directory.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda[:i] or npu[:i].")]
DtypeOption = Annotated[str, typer.Option(help="auto (the checkpoint's), bfloat16, float32 or float64.")]
NumericsOption = Annotated[str, typer.Option(help="official (all FP8/FP4 rounding) or exact (none).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    whole = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"  # else JSON has a way to spell the rest
    print(json.dumps(value, ensure_ascii=not whole))


@app.command()
def generate(
    model: ModelArgument = "nano",
    prompt: Annotated[str | None, typer.Option(help="Text to continue.")] = None,
    chat: Annotated[str | None, typer.Option(help="A user message to answer (needs the V4 tokenizer).")] = None,
    think: Annotated[str, typer.Option(help="Reasoning with --chat: none, high or max.")] = "none",
    max_new_tokens: Annotated[int, typer.Option(help="Stop after so many tokens.")] = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    numerics: NumericsOption = "official",
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    draft_tokens: Annotated[int, typer.Option(help="Draft tokens of the MTP head in each pass, 0 = none.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Continue a text or answer a message, printed as it is made.

    Example: v4npu generate nano --prompt "Call me Ishmael." --max-new-tokens 100
    """
    from v4npu.loader import load
    from v4npu.speculative import Acceptance

    if (prompt is None) == (chat is None):
        raise ValueError("give either --prompt or --chat")
    if chat is None and think != "none":
        raise ValueError("--think goes with --chat")
    loaded = load(model, device, dtype, numerics)
    ids = _prompt_ids(loaded, prompt, chat, think)
    drafts = Acceptance()
    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed}
    speculation: dict[str, Any] = {"draft_tokens": draft_tokens, "acceptance": drafts}
    tokens = loaded.generate(ids, max_new_tokens=max_new_tokens, **sampling, **speculation)
    assert loaded.tokenizer is not None
    stream, text, times = loaded.tokenizer.stream(), "", [time.perf_counter()]
    if prompt is not None and not as_json:
        print(prompt, end="", flush=True)
    for token in tokens:
        times.append(time.perf_counter())
        piece = stream.push(token)
        text += piece
        if not as_json:
            print(piece, end="", flush=True)
    rest = stream.finish()
    made = len(times) - 1
    report = {
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "numerics": loaded.numerics,
        "prompt_tokens": len(ids),
        "new_tokens": made,
        "prefill_tokens_per_second": round(len(ids) / (times[1] - times[0]), 2) if made else None,
        "decode_tokens_per_second": round((made - 1) / (times[-1] - times[1]), 2) if made > 1 else None,
        "draft_tokens": draft_tokens,
        "draft_acceptance": round(drafts.rate, 4) if drafts.drafted else None,
    }
    if as_json:
        _print_json({"text": text + rest, **report})
        return
    print(rest, flush=True)
    before, after = (report[f"{part}_tokens_per_second"] for part in ("prefill", "decode"))
    _say(
        f"[device {report['device']}, dtype {report['dtype']}, {report['numerics']} numerics; "
        f"prompt {len(ids)} tokens{f' at {before} tokens/s' if before else ''}, "
        f"{made} new{f' at {after} tokens/s' if after else ''}"
        + (f", {drafts.accepted} of {drafts.drafted} draft tokens accepted]" if draft_tokens else "]")
    )


def _prompt_ids(model: Model, prompt: str | None, chat: str | None, think: str) -> list[int]:
    from v4npu.chat import encode_chat
    from v4npu.generate import prompt_ids

    if model.tokenizer is None:
        raise ValueError("MODEL: this checkpoint has no tokenizer.json")
    if chat is not None:
        return encode_chat(model.tokenizer, [{"role": "user", "content": chat}], think)
    return prompt_ids(model, prompt or "")


@app.command()
def perplexity(
    model: ModelArgument = "nano",
    text: Annotated[Path, typer.Option(help="UTF-8 text file to score.")] = ...,  # type: ignore[assignment]
    context: Annotated[int, typer.Option(help="Tokens per window; windows overlap by half.")] = 1024,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    numerics: NumericsOption = "official",
    as_json: JsonOption = False,
) -> None:
    """Score a text: bits per byte and perplexity.

    Example: v4npu perplexity nano --text chapter.txt --context 1024
    """
    from rich.console import Console
    from rich.progress import Progress

    from v4npu.loader import load
    from v4npu.perplexity import perplexity as score

    try:
        content = text.read_bytes().decode("utf-8")  # line ends and all
    except UnicodeDecodeError as error:
        raise ValueError(f"--text {text}: {error}") from error
    loaded = load(model, device, dtype, numerics)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("scoring")
        result = score(loaded, content, context, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        _print_json(result.to_dict())
        return
    print(f"bits per byte   {result.bits_per_byte:.4f}")
    print(f"perplexity      {result.perplexity:.4f} per token")
    print(f"scored          {result.tokens} tokens, {result.bytes} bytes, windows of {context}")


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="pro, flash, nano, a config.json or a checkpoint directory.")
    ] = "nano",
    context: Annotated[int, typer.Option(help="Tokens in the cache.")] = 1_048_576,
    as_json: JsonOption = False,
) -> None:
    """Parameters, cache bytes by kind and FLOPs per token, beside DeepSeek-V3.2.

    Example: v4npu inspect pro --context 1048576
    """
    from v4npu.footprint import footprint
    from v4npu.tables import print_table, short

    result = footprint(_config(model), context)
    if as_json:
        _print_json(result)
        return
    old, kv = result["v3.2"], result["kv_bytes"]
    layers = ", ".join(f"{n} {kind}" for kind, n in result["layers"].items() if n)
    counts = [(name, f"{n:,}", short(n, "B")) for name, n in result["parameters"].items()]
    print_table(f"{model}: {layers} layers", ("", "parameters", ""), counts)
    others = {f"total, {name}": n for name, n in result["kv_bytes_by_format"].items() if name != result["kv_format"]}
    old_kv = old["kv_bytes"]["total"]
    sizes = [(kind, f"{n:,}", f"{n / 2**30:.3f}", f"{n / old_kv:.2%}") for kind, n in {**kv, **others}.items()]
    print_table(f"cache of {context:,} tokens", (f"rows {result['kv_format']}", "bytes", "GiB", "of V3.2"), sizes)
    print(f"  {result['kv_ratio']['gqa8']:.2%} of a bf16 GQA-8 model of the same depth\n")
    work = {name: (n, old["flops"][name]) for name, n in result["flops"].items()}
    shares = [(name, short(a), short(b), f"{a / b:.1%}" if b else "") for name, (a, b) in work.items()]
    print_table("work for the next token", ("FLOP", "here", "V3.2", "of V3.2"), shares)


def _config(model: str) -> Config:
    from v4npu.loader import NANO
    from v4npu.model.config import Config

    if model in ("pro", "flash"):
        return Config.preset(model)
    return Config.from_file(NANO if model == "nano" else model)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Versions, devices, and which kernel serves each operator and why."""
    from v4npu.device import doctor as examine

    report = examine()
    if as_json:
        _print_json(report.to_dict())
    else:
        print(report)


@app.command()
def build_kernels(
    soc: Annotated[
        str | None, typer.Option(help="Chip: ascend910b1, ascend910_9391, ascend950dt, ...; the one found here.")
    ] = None,
    compiler: Annotated[str, typer.Option(help="Path or name of CANN's compiler.")] = "bisheng",
) -> None:
    """Compile the Ascend kernels ahead of time; prints the binary's path. Kept; never run on a device.

    Example: v4npu build-kernels --soc ascend910b1
    """
    from v4npu.build_kernels import build
    from v4npu.device import npu_soc

    print(build(soc or npu_soc(), compiler))


@app.command()
def emulate(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="What to run, and its arguments.")],
    soc: Annotated[
        str, typer.Option(help="Chip: ascend950dt, ascend950pr, ascend910b1, ascend910_9391, ...")
    ] = "ascend950dt",
    force: Annotated[bool, typer.Option("--force", help="Even beside a real Ascend runtime.")] = False,
) -> None:
    """Run a command in which torch-npu finds an emulated Ascend NPU; compiled on first use, never run on a device.

    Example: v4npu emulate --soc ascend950dt -- v4npu generate nano --prompt "Call me Ishmael." --device npu
    """
    from v4npu.emulate import environment

    settings = environment(soc, os.environ, force)
    sys.stdout.flush()
    os.execvpe(command[0], command, settings)


WRONG_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
UNUSABLE = (ValueError, TypeError, NotImplementedError, *WRONG_PATH)
WRONG_NAME = (errno.ENAMETOOLONG, errno.ELOOP)  # paths too, of which Python has no classes


def main() -> None:
    """Entry point of the `v4npu` command."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows ?, and nothing breaks
            stream.reconfigure(errors="replace")
    try:
        sys.exit(app(standalone_mode=False))  # the status that --help or an interrupt asked for, or None
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("V4NPU_DEBUG") == "1":
            raise
        usage = hasattr(error, "format_message")  # click's own: unknown option, bad value
        text = error.format_message() if usage else str(error) or type(error).__name__  # type: ignore[attr-defined]
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        if text:
            _say("v4npu: " + " ".join(re.sub(r"^v4npu[.\w]*: ", "", text).split()))
        unusable = usage or isinstance(error, UNUSABLE) or getattr(error, "errno", None) in WRONG_NAME
        sys.exit(2 if unusable else 1)
