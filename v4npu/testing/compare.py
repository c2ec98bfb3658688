"""How close two tensors are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from v4npu import reference

ALWAYS_FLOAT32 = ("freqs",)  # float32 by contract, in the oracle too


def argument_names(op: str) -> list[str]:
    """The arguments of torch.ops.v4npu.<op>, in order."""
    return [a.name for a in getattr(torch.ops.v4npu, op).default._schema.arguments]


def oracle_args(op: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same values in float64, for the reference."""

    def wide(name: str, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return torch.float64
        floating = isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16)
        return value.double() if floating and name not in ALWAYS_FLOAT32 else value

    return tuple(wide(name, value) for name, value in zip(argument_names(op), args, strict=False))


def run_reference(op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The reference's results."""
    out = getattr(reference, op)(*args)
    return out if isinstance(out, tuple) else (out,)


def poisoned(op: str, args: tuple[Any, ...], dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    """The arguments with NaN, then infinity of either sign, amid each tensor of this dtype in turn."""
    for value in (torch.nan, torch.inf, -torch.inf):
        for at, (name, arg) in enumerate(zip(argument_names(op), args, strict=False)):
            if isinstance(arg, Tensor) and arg.dtype == dtype and name not in ALWAYS_FLOAT32:
                with_one = arg.clone()
                with_one.view(-1)[arg.numel() // 2] = value
                yield (*args[:at], with_one, *args[at + 1 :])


def bits(t: Tensor) -> Tensor:
    """The bytes of a tensor."""
    return t.contiguous().view(torch.uint8)


def same_nonfinite(a: Tensor, b: Tensor) -> bool:
    """NaN and infinity in the same places; one-byte formats, which have no isnan, equal bit for bit."""
    if a.itemsize == 1:
        return torch.equal(bits(a), bits(b))
    infinite = a.isinf()
    return (
        torch.equal(a.isnan(), b.isnan()) and torch.equal(infinite, b.isinf()) and torch.equal(a[infinite], b[infinite])
    )


def defined(op: str, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Results without what no contract says: fp4_act_quant's codes of a block of 32 whose scale is NaN."""
    if op != "fp4_act_quant":
        return results
    codes, scale = results
    spoilt = scale.float().isnan().repeat_interleave(16, -1)[..., : codes.shape[-1]]
    return codes.masked_fill(spoilt, 0), scale


def complaint(got: Tensor, naive: Tensor, oracle: Tensor, ratio: float) -> str:
    """What is wrong with one result of a kernel; empty if it may stand.

    Its error must be at most `ratio` times that of plain torch in the same dtype plus half a unit in the last place of
    the largest value (in float32 a whole one: there torch's own error is that of the order in which this machine's
    library sums, which may be lucky), both against the float64 oracle, and it must be NaN and infinite where that is.
    Integers and one-byte formats must be equal bit for bit.
    """
    if got.dtype != naive.dtype or got.shape != naive.shape:
        return f"{got.dtype} {list(got.shape)} instead of {naive.dtype} {list(naive.shape)}"
    if not got.is_floating_point() or got.itemsize == 1:
        return "" if torch.equal(bits(got), bits(naive)) else "not the bits of the reference"
    finite, wide = oracle.isfinite(), got.double()
    if not torch.equal(wide[~finite].nan_to_num(7.0), oracle[~finite].nan_to_num(7.0)):
        return "not NaN or infinite where the reference is"
    if not finite.any():
        return ""
    error, plain = (float((t.double() - oracle)[finite].abs().max()) for t in (got, naive))
    unit = torch.finfo(got.dtype).eps * float(oracle[finite].abs().max())
    allowed = ratio * plain + (unit if got.dtype == torch.float32 else unit / 2)
    return "" if error <= allowed else f"error {error:.3g}, allowed {allowed:.3g}"


def calc_diff(x: Tensor, y: Tensor) -> float:
    """1 - 2 sum(xy) / sum(x^2 + y^2): 0 when equal, scale-free."""
    a, b = x.double(), y.double()
    return float(1 - 2 * (a * b).sum() / (a * a + b * b).sum())


def max_error(x: Tensor, y: Tensor) -> float:
    """Largest difference, relative to the largest magnitude of y."""
    return float((x.double() - y.double()).abs().max() / y.double().abs().max())
