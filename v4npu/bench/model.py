"""Prefill and decode of a whole model, beside transformers' of the same shape."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import v4npu
from v4npu.bench.record import Row
from v4npu.bench.timing import peak_mib, reset_peak, stats
from v4npu.loader import NANO
from v4npu.model import Config
from v4npu.testing.bench import SMALL

Call = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]  # ids, cache -> last logits on the CPU, cache
Engines = dict[str, Callable[[], Call]]  # name -> what makes one ready and gives its call
PIECES = (64, 66, 1)  # of the prompt that is checked: past a window, an entry of 128 and many of 4
TOLERANCE = {torch.bfloat16: 5e-2, torch.float32: 1e-3}  # of the largest logit


def ours(model: Any) -> Call:
    """A model of v4npu.load."""

    def call(ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        cache = model.new_cache(1) if cache is None else cache
        return model(ids, cache=cache, last_only=True)[0, -1].cpu(), cache

    return call


def their_model(config: Config, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Any:
    """transformers' eager model; its speed does not depend on the weights' values."""
    try:
        from transformers.models import deepseek_v4
    except ImportError as error:
        raise ValueError(f"--transformers and --enable need transformers 5.23 or later: {error}") from error
    values = {k: v for k, v in config.to_dict().items() if k not in ("quantization_config", "model_type")}
    torch.manual_seed(0)
    model = deepseek_v4.DeepseekV4ForCausalLM._from_config(
        deepseek_v4.DeepseekV4Config(**values), attn_implementation="eager", dtype=dtype
    )
    return model.eval().to(device)


def theirs(model: Any) -> Call:
    """A model of transformers."""

    def call(ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        out = model(ids.to(model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1].cpu(), out.past_key_values

    return call


def prompt(config: Config, length: int) -> torch.Tensor:
    return torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def complaint(call: Call, config: Config, dtype: torch.dtype) -> str:
    """What is wrong with a model: its logits behind a prompt must be finite, and in pieces those of the whole."""
    ids = prompt(config, sum(PIECES))
    whole, cache = call(ids, None)[0].float(), None
    for piece in ids.split(list(PIECES), 1):
        logits, cache = call(piece, cache)
    if not (whole.isfinite().all() and logits.isfinite().all()):
        return "wrong: logits are not finite"
    error = float((logits.float() - whole).abs().max() / whole.abs().max())
    return "" if error <= TOLERANCE[dtype] else f"wrong: in pieces, logits are {error:.2g} of the largest away"


@torch.inference_mode()
def once(call: Call, config: Config, length: int, new: int) -> tuple[float, float, float | None]:
    """Seconds of a prompt and of `new` greedy tokens behind it, and peak memory."""
    ids = prompt(config, max(1, length))
    gc.collect()
    known = reset_peak()
    begin = time.perf_counter()
    logits, cache = call(ids, None)
    between = time.perf_counter()
    for _ in range(new):
        logits, cache = call(logits.argmax(-1).view(1, 1), cache)
    return between - begin, time.perf_counter() - between, peak_mib() if known else None


def rows_of(where: Row, length: int, new: int, runs: list[tuple[float, float, float | None]]) -> list[Row]:
    """A row of the prompt and one of the tokens behind it; of no prompt, the latter alone."""
    prefill, decode, peak = zip(*runs, strict=True)
    rows = []
    for phase, tokens, context, samples in (("prefill", length, 0, prefill), ("decode", new, length, decode)):
        if tokens:
            row = {"kind": "model", **where, "phase": phase, "tokens": tokens, "context": context, "status": "ok"}
            row |= stats(samples)
            row["tokens_per_second"] = tokens / row["seconds"]
            rows.append(row if None in peak else {**row, "peak_MiB": max(peak)})
    return rows


def measure(
    engines: Engines, config: Config, where: Row, prompts: list[int], new: int, repeats: int
) -> Iterator[list[Row]]:
    """Rows of each prompt, the engines taking turns; none is timed whose logits are wrong.

    Args:
        engines: each made ready before each of its runs.
    """
    dtype = getattr(torch, where["dtype"])
    found = {name: complaint(ready(), config, dtype) for name, ready in engines.items()}
    bad = {name: text for name, text in found.items() if text}
    yield [{"kind": "model", "engine": name, **where, "status": text} for name, text in bad.items()]
    for length in prompts:
        runs: dict[str, list[Any]] = {name: [] for name in engines if name not in bad}
        for name in [*runs] * repeats:
            runs[name].append(once(engines[name](), config, length, new))
        yield [row for name, each in runs.items() for row in rows_of({"engine": name, **where}, length, new, each)]


def config_of(name: str, prompts: list[int], new: int) -> Config:
    """The configuration of a model by its name.

    Raises:
        FileNotFoundError, ValueError, NotImplementedError: there is none that can be run.
        ValueError: a prompt and what is decoded behind it are too long for it.
    """
    config = SMALL if name == "random" else Config.from_file(NANO if name == "nano" else name)
    if (most := max(prompts) + new) > (has := config.max_position_embeddings):
        raise ValueError(f"--prompts and --new need {most} positions, the model has {has}")
    return config


def rows_of_v4npu(name: str, load: Row, prompts: list[int], new: int, repeats: int) -> Iterator[list[Row]]:
    """Rows of measure for a checkpoint, or "random"; `load` are arguments of v4npu.load."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(name)
        if name == "random":
            path = Path(folder) / "model"
            v4npu.checkpoint.random(path, SMALL)
        loaded = v4npu.load(name if name == "nano" else path, **load)
    call = ours(loaded)
    yield from measure({"v4npu": lambda: call}, loaded.config, _where(name, load), prompts, new, repeats)


def rows_of_transformers(
    name: str, load: Row, prompts: list[int], new: int, repeats: int, enable: bool = False
) -> Iterator[list[Row]]:
    """The same for transformers' model of that shape; with `enable`, by turns without and with v4npu.enable."""
    config = config_of(name, prompts, new)
    model = their_model(config, load["device"], getattr(torch, load["dtype"]))
    call = theirs(model)

    def switched(switch: Callable[[Any], Any]) -> Callable[[], Call]:
        def ready() -> Call:
            switch(model)
            return call

        return ready

    engines: Engines = {"transformers": lambda: call}
    if enable:
        engines = {"transformers": switched(v4npu.disable), "v4npu.enable": switched(v4npu.enable)}
    where = {**_where(name, load), "numerics": "exact", "strict": False}
    yield from measure(engines, config, where, prompts, new, repeats)


def _where(name: str, load: Row) -> Row:
    return {"model": Path(name).resolve().name, **load, "device": load["device"].partition(":")[0]}
