#!/usr/bin/env python3
"""Prefill and decode of a whole random model, beside transformers' in the same run.

    python bench/model.py                        v4npu alone, official bfloat16
    python bench/model.py --transformers         and transformers' eager bfloat16 model of the same shape
    python bench/model.py --enable               that model without and with v4npu.enable, and nothing else

The model (hidden 1024, 8 layers with ratios 0 0 4 128 4 128 4 128, 16 heads of 512, 32 experts of 512, vocabulary
129,280; FP8 attention, FP4 experts) is written by the project's own writer. Each figure is the best of --repeats runs;
with --enable it is their median, the runs without and with it taking turns, in exact numerics and --dtype.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import v4npu
from v4npu.testing.bench import SMALL as CONFIG

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
Call = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]  # ids, cache -> last logits, cache


def peak_mib() -> float:
    """Highest resident memory since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@torch.inference_mode()
def measure(name: str, call: Call, prompts: list[int], new: int, repeats: int) -> list[dict[str, Any]]:
    """One row per prompt length: tokens per second of prefill, of the `new` tokens after it, and peak memory."""
    rows = []
    for length in prompts:
        ids = torch.randint(CONFIG.vocab_size, (1, max(1, length)), generator=torch.Generator().manual_seed(0))
        prefill = decode = float("inf")
        for _ in range(repeats):
            gc.collect()
            reset_peak()
            begin = time.perf_counter()
            logits, cache = call(ids, None)
            prefill = min(prefill, time.perf_counter() - begin)
            begin = time.perf_counter()
            for _ in range(new):
                logits, cache = call(logits.argmax(-1).view(1, 1), cache)
            decode = min(decode, time.perf_counter() - begin)
        rows.append(
            {"engine": name, "context": length, "prefill_tokens_per_second": length / prefill if length else None,
             "decode_tokens_per_second": new / decode, "peak_MiB": peak_mib()}
        )  # fmt: skip
    return rows


def ours(folder: Path, numerics: str, dtype: str, strict: bool, device: str = "cpu") -> Call:
    model = v4npu.load(folder, device=device, dtype=dtype, numerics=numerics, strict=strict)

    def call(ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        cache = model.new_cache(1) if cache is None else cache
        return model(ids, cache=cache, last_only=True)[0, -1].cpu(), cache

    return call


def their_model(device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Any:
    """transformers' eager model; its speed does not depend on the weights' values."""
    from transformers.models import deepseek_v4

    values = {k: v for k, v in CONFIG.to_dict().items() if k not in ("quantization_config", "model_type")}
    values["compress_ratios"] = list(CONFIG.compress_ratios)
    config = deepseek_v4.DeepseekV4Config(**values)
    torch.manual_seed(0)
    model = deepseek_v4.DeepseekV4ForCausalLM._from_config(config, attn_implementation="eager", dtype=dtype)
    return model.eval().to(device)


def theirs(device: str = "cpu", model: Any = None) -> Call:
    model = their_model(device) if model is None else model

    def call(ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        out = model(ids.to(device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1].cpu(), out.past_key_values

    return call


def before_and_after(prompts: list[int], new: int, repeats: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Rows of measure for one transformers model, by turns not enabled and enabled: the median of each figure."""
    model, rows = their_model(dtype=dtype), []
    call = theirs(model=model)
    for length in prompts:
        runs: dict[str, list[dict[str, Any]]] = {"transformers": [], "v4npu.enable": []}
        for name in [*runs] * repeats:
            (v4npu.enable if name == "v4npu.enable" else v4npu.disable)(model)
            runs[name] += measure(name, call, [length], new, 1)
        for name, each in runs.items():
            medians = {key: statistics.median(row[key] for row in each) for key in each[0] if key != "engine"}
            rows.append({"engine": name, **medians})
    return rows


def side_by_side(
    prompts: list[int], new: int, repeats: int, numerics: str, dtype: str, strict: bool, transformers: bool
) -> list[dict[str, Any]]:
    """Rows of measure for v4npu.load, and for transformers if wanted."""
    with tempfile.TemporaryDirectory() as folder:
        v4npu.checkpoint.random(Path(folder) / "model", CONFIG)
        packed = sum(f.stat().st_size for f in (Path(folder) / "model").glob("*.safetensors")) / 2**20
        rows = measure("v4npu", ours(Path(folder) / "model", numerics, dtype, strict), prompts, new, repeats)
    for row in rows:
        row["packed_weights_MiB"] = packed
    gc.collect()
    return rows + (measure("transformers", theirs(), prompts, new, repeats) if transformers else [])


@app.command()
def run(
    prompts: Annotated[str, typer.Option(help="Prompt lengths.")] = "512,2048,4096",
    new: Annotated[int, typer.Option(help="Tokens decoded behind each prompt.")] = 32,
    repeats: Annotated[int, typer.Option(help="Runs of each; the best counts.")] = 2,
    numerics: Annotated[str, typer.Option(help="official or exact.")] = "official",
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    strict: Annotated[bool, typer.Option(help="Bit for bit independent of batch and chunks.")] = False,
    transformers: Annotated[bool, typer.Option(help="Measure transformers too.")] = False,
    enable: Annotated[bool, typer.Option(help="Measure transformers without and with v4npu.enable.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Measure."""
    lengths = [int(n) for n in prompts.split(",")]
    if enable:
        numerics = "exact"
        rows = before_and_after(lengths, new, repeats, {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype])
    else:
        rows = side_by_side([0, *lengths], new, repeats, numerics, dtype, strict, transformers)
    where = {"device": "cpu", "threads": torch.get_num_threads(), "dtype": dtype, "numerics": numerics,
             "strict": strict}  # fmt: skip
    if as_json:
        for row in rows:
            print(json.dumps({**row, **where}))
        return
    table = Table(title=", ".join(f"{k} {v}" for k, v in where.items()))
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{v:,.1f}" if isinstance(v, float) else str(v or "") for v in row.values()))
    Console().print(table)


if __name__ == "__main__":
    app()
