"""Every CPU kernel on every instruction set of this machine: accuracy, poison, guards, sizes, and bitwise sameness.

An operator joins by a line in v4npu/testing/tolerances.py and one in `sized` of v4npu/testing/cases.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from v4npu import _C, reference
from v4npu.testing.cases import SEQUENCED, SIZES, sized
from v4npu.testing.compare import bits, complaint, defined, oracle_args, poisoned, run_reference, same_nonfinite
from v4npu.testing.guard import run_guarded
from v4npu.testing.tolerances import ERROR_RATIO

OPS = list(ERROR_RATIO)
DTYPES = [torch.float32, torch.bfloat16]


pytestmark = pytest.mark.usefixtures("isa")


def run(op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    out = getattr(torch.ops.v4npu, op)(*args)
    return out if isinstance(out, tuple) else (out,)


def pick(args: tuple[Any, ...], rows: int, chosen: slice | Tensor) -> tuple[Any, ...]:
    """The arguments of some of the rows."""
    of_rows = [isinstance(a, Tensor) and a.dim() > 0 and a.shape[0] == rows for a in args]
    return tuple(a[chosen] if yes else a for a, yes in zip(args, of_rows, strict=True))


def test_every_native_operator_is_tested(isa: str) -> None:
    cpu = next(caps for caps in _C.caps() if caps.kind == "cpu")
    assert [op for op in _C.op_names() if _C.plan(op, cpu).variant != "reference"] == OPS
    assert all(_C.plan(op, cpu).variant == isa for op in OPS)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_accuracy_poison_and_guards(op: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    args = sized(op, *size, dtype)
    got, buffers, intact = run_guarded(op, args)
    assert buffers >= len(got) and intact
    naive, oracle = run_reference(op, args), run_reference(op, oracle_args(op, args))
    for g, n, want in zip(got, naive, oracle, strict=True):
        assert not complaint(g, n, want, ERROR_RATIO[op])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_nan_and_infinity_where_the_reference_has_them(op: str, dtype: torch.dtype) -> None:
    for args in poisoned(op, sized(op, 11, 126, dtype), dtype):
        got, want = run(op, args), run_reference(op, args)
        assert all(same_nonfinite(g, w) for g, w in zip(defined(op, got), defined(op, want), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_a_row_does_not_depend_on_the_run_the_batch_or_the_threads(op: str, dtype: torch.dtype) -> None:
    threads = torch.get_num_threads()
    rows, width = SIZES[-1]
    args = sized(op, rows, width, dtype)
    try:
        torch.set_num_threads(1)
        whole = run(op, args)
        parts = (
            () if op in SEQUENCED else (slice(0, 1), slice(rows - 1, rows), slice(5, 28), torch.arange(rows).flip(0))
        )
        for chosen in parts:  # test_paged_kernels.py cuts sequences
            for part, full in zip(run(op, pick(args, rows, chosen)), whole, strict=True):
                assert torch.equal(bits(part), bits(full[chosen]))
        for count in (1, 2):
            torch.set_num_threads(count)
            for again, full in zip(run(op, args), whole, strict=True):
                assert torch.equal(bits(again), bits(full))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("op", [op for op in OPS if op not in SEQUENCED])
def test_strides_do_not_matter(op: str) -> None:
    args = sized(op, 7, 34)
    strided = tuple(
        torch.stack((a, a), -1)[..., 0] if isinstance(a, Tensor) and a.dtype == torch.float32 else a for a in args
    )
    for a, b in zip(run(op, args), run(op, strided), strict=True):
        assert torch.equal(bits(a), bits(b))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_other_dtypes_run_the_reference(op: str, dtype: torch.dtype) -> None:
    args = sized(op, 7, 34, dtype)
    with torch.inference_mode():  # no Python kernel in between
        for a, b in zip(run(op, args), run_reference(op, args), strict=True):
            assert a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def test_an_error_of_the_reference_keeps_type_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from v4npu import dispatch

    def refuse(error: Exception) -> None:
        def compute(*args: Any) -> Tensor:
            raise error

        monkeypatch.setattr(reference, "rms_norm", compute)
        library = torch.library.Library("v4npu_reference", "IMPL")
        library.impl("rms_norm", dispatch._reference("rms_norm"), "CPU")
        x = torch.ones(2, 3, dtype=torch.float64)
        with torch.inference_mode(), pytest.raises(type(error), match=r"^exactly this$"):
            torch.ops.v4npu.rms_norm(x, None, 1e-6)
        library._destroy()

    refuse(ValueError("exactly this"))
    refuse(RuntimeError("exactly this"))
