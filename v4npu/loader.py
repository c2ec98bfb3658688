"""Loads a checkpoint into a model: one tensor at a time, quantised weights as they are stored."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from v4npu import device as devices
from v4npu.checkpoint import Checkpoint
from v4npu.model import Model
from v4npu.model.install import place
from v4npu.model.model import NUMERICS

NANO = Path(__file__).parent / "data" / "nano"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
PROGRESS_BYTES = 256 << 20


def load(
    model: str | Path = "nano",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    numerics: str = "official",
    strict: bool = False,
) -> Model:
    """Loads a DeepSeek-V4 model.

    Args:
        model: "nano", the bundled checkpoint, or a directory with config.json and *.safetensors: official
            names or those of transformers; FP8, FP4 or plain float weights.
        device: "auto", "cpu", "cuda[:i]" or "npu[:i]".
        dtype: of activations and unquantised weights: "auto" (the checkpoint's), "bfloat16", "float32" or
            "float64".
        numerics: "official" rounds wherever DeepSeek's code does; "exact" quantises no activation, KV row or
            index key.
        strict: every result bit for bit independent of batch, chunking and padding. On a CPU in bfloat16 and float32
            that costs nothing, for the kernels are made so; elsewhere one token of one sequence at a time passes
            through the layers: right, and slow.

    Returns:
        The model, with its tokenizer if there is a tokenizer.json. FP8 and FP4 weights stay packed; mHC
        weights, sinks and biases stay float32. Host memory stays below 1.2 times the tensors kept. Its weights want
        no gradients: where one is recorded the reference runs, not the kernels. `model.requires_grad_()` asks for them,
        with quantised weights of exact numerics alone.

    Raises:
        FileNotFoundError: no such checkpoint, or a shard is missing.
        ValueError, TypeError: an argument or the checkpoint is malformed; the message names what and where.
        NotImplementedError: a configuration this build does not run.
    """
    if numerics not in NUMERICS:
        raise ValueError(f'v4npu.load: numerics must be "official" or "exact", got {numerics!r}')
    known = ("auto", *DTYPES, *DTYPES.values())
    if dtype not in known:
        raise ValueError(f"v4npu.load: dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    if type(strict) is not bool:
        raise TypeError(f"v4npu.load: strict must be True or False, got {strict!r}")
    if not isinstance(model, (str, Path)):
        raise TypeError(f'v4npu.load: model must be "nano" or a directory, got {type(model).__name__}')
    path = NANO if str(model) == "nano" else Path(model)
    target = devices.resolve(device)
    checkpoint = Checkpoint(path)
    if dtype == "auto" and checkpoint.config.torch_dtype not in DTYPES:
        raise NotImplementedError(
            f"{path}: torch_dtype {checkpoint.config.torch_dtype!r}: choose dtype bfloat16 or float32"
        )
    chosen = checkpoint.config.torch_dtype if dtype == "auto" else dtype
    out = Model(
        checkpoint.config,
        numerics=numerics,
        dtype=chosen if isinstance(chosen, torch.dtype) else DTYPES[chosen],
        device=target,
        strict=strict,
    )
    if (path / "tokenizer.json").is_file():
        from v4npu import tokenizer

        out.tokenizer = tokenizer.load(path)
    for name in _with_progress(checkpoint):
        tensor = place(out, name, *checkpoint.spec(name))
        checkpoint.copy(name, tensor)
        if name.endswith(".tid2eid"):
            _check_ids(f"{path}: tensor {name}", tensor, checkpoint.config.n_routed_experts)
    if absent := out.missing():
        raise ValueError(f"{path}: tensors are missing: {', '.join(absent[:6])}")
    return out.requires_grad_(False)


def _check_ids(where: str, ids: Tensor, experts: int) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= experts:
        raise ValueError(f"{where} must hold expert ids 0..{experts - 1}, got {low}..{high}")


def _with_progress(checkpoint: Checkpoint) -> Iterator[str]:
    """The names, with a bar on stderr where loading takes a while and somebody may be watching."""
    shown = checkpoint.nbytes > PROGRESS_BYTES and sys.stderr.isatty()
    with contextlib.ExitStack() as stack:
        if shown:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("loading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            progress = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
            task = progress.add_task("loading", total=checkpoint.nbytes)
        for name in checkpoint.names():
            yield name
            if shown:
                dtype, shape = checkpoint.spec(name)
                progress.advance(task, torch.Size(shape).numel() * dtype.itemsize)
