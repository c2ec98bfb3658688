"""Whole models in bench/cuda_device.py: the bundled one beside the CPU and in a graph, a random one of 8 layers."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerator import Device, same_bits
from torch import Tensor

import v4npu
from v4npu import fallback, loader
from v4npu.bench.model import rows_of_transformers, rows_of_v4npu
from v4npu.cache import Sequence
from v4npu.model import Model
from v4npu.model.step import Step, Tables

PROMPT = [36, 380, 379, 304, 789, 78, 66, 451, 15]  # "Call me Ishmael."
NANO = (("bfloat16", "official"), ("float32", "official"), ("float32", "exact"))


def _load(**how: str) -> Model:
    """The bundled model without its tokenizer, which takes a package more than torch."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", "model.safetensors"):
            (Path(folder) / name).symlink_to(loader.NANO / name)
        return v4npu.load(folder, **how)


def nano(device: Device, tokens: int) -> Iterator[dict[str, Any]]:
    """Greedy text of the bundled model, which must be the CPU's."""
    for dtype, numerics in NANO:
        texts = []
        for kind in ("cpu", device.kind):
            model = _load(device=kind, dtype=dtype, numerics=numerics)
            with fallback("error"):  # every operator has a kernel
                texts.append(list(model.generate(PROMPT, max_new_tokens=tokens)))
        same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
        status = "ok" if texts[0] == texts[1] else f"differs from the CPU's text after {same} tokens"
        yield {"op": "", "case": f"nano {numerics}", "dtype": dtype, "tokens": tokens, "status": status}


def _step(model: Model, sequence: Sequence, token: int) -> Step:
    """The pass of one more token, as model/run.py makes it."""
    sequence.extend([token])
    sequence.prepare(1)
    step = Step(torch.tensor([token], device=model.device), [1], [sequence.computed])
    step.tables = Tables([sequence], [1], model.device)
    return step


def _tensors(step: Step) -> tuple[Tensor, ...]:
    """Whatever of a pass is read on the device."""
    t = step.tables
    assert t is not None
    return (step.input_ids, step.positions, step.cu_seqlens_q, step.start_pos,
            t.block_table, t.window_table, t.window_slots, t.state_slots)  # fmt: skip


@torch.inference_mode()
def graph(device: Device) -> Iterator[dict[str, Any]]:
    """A decode step of the bundled model, captured once and replayed for the tokens behind it: the bits of plain calls.

    The prompt's length is a multiple of 4, so that neither of the three tokens completes an entry, whose number the
    host has to know.
    """
    model = _load(device=device.kind, dtype="bfloat16")
    prompt, tokens = [i % 200 + 20 for i in range(140)], (31, 77, 5)
    with fallback("error"):
        plain, captured = (model.new_cache(1, 256) for _ in range(2))
        for cache in (plain, captured):
            model(torch.tensor([prompt]), cache=cache, last_only=True)
        wanted = [model(torch.tensor([[t]]), cache=plain, last_only=True)[0, 0] for t in tokens]
        sequence, store = captured.sequences[0], captured.store
        held = _step(model, sequence, tokens[0])

        def run() -> Tensor:
            return model.logits(model._layers(held, store).unsqueeze(0))[0, 0]

        run()  # loads the kernels
        logits, replay = device.capture(run)
        for i, token in enumerate(tokens):
            if i:
                for to, from_ in zip(_tensors(held), _tensors(_step(model, sequence, token)), strict=True):
                    to.copy_(from_)
            replay()
            sequence.commit(1)
            status = "ok" if same_bits(logits, wanted[i]) else "a replay differs from a plain call"
            yield {
                "op": "",
                "case": f"nano, token {i + 1} of a graph",
                "dtype": "bfloat16",
                "tokens": 1,
                "status": status,
            }


def end_to_end(device: Device, prompts: list[int], new: int) -> Iterator[dict[str, Any]]:
    """Tokens per second of a random model of 8 layers, and of transformers' eager one of the same shape."""
    load = {"device": device.kind, "dtype": "bfloat16", "numerics": "official", "strict": False}

    def rows(batches: Iterator[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        for row in chain.from_iterable(batches):
            found = {
                "op": "",
                "case": "8 layers",
                "dtype": row["dtype"],
                "peer": row["engine"],
                "status": row["status"],
            }
            if row["status"] == "ok":
                phase, behind = row["phase"], row["context"]
                found |= {"case": f"8 layers, {phase}", "tokens": behind or row["tokens"]}
                found[f"{phase}_tokens_per_second"] = row["tokens_per_second"]
            yield found

    yield from rows(rows_of_v4npu("random", load, prompts, new, 2))
    if importlib.util.find_spec("transformers") is None:
        yield {"op": "", "case": "8 layers", "peer": "transformers", "status": "not installed"}
        return
    try:
        yield from rows(rows_of_transformers("random", load, prompts, new, 2))
    except Exception as error:  # a release without DeepSeek-V4, or whose model does not run there
        yield {"op": "", "case": "8 layers", "peer": "transformers", "status": f"failed: {error}"}
