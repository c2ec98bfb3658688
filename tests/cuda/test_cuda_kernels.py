"""Every CUDA kernel, emulated: accuracy, poison, guards, races, sizes, and bitwise sameness. Never run on a device.

An operator joins by its kernel file. Shapes and error ratios are those of the CPU kernels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v4npu.testing.cases import SEQUENCED, sized
from v4npu.testing.compare import bits, complaint, defined, oracle_args, poisoned, run_reference, same_nonfinite
from v4npu.testing.cuda import FLOAT32_ON_TENSOR_CORES, TENSOR_CORE_OPS, EmulatedGpu, kernel_sources
from v4npu.testing.tolerances import ERROR_RATIO

OPS = list(kernel_sources())
DTYPES = [torch.float32, torch.bfloat16]
OP_DTYPES = [(op, d) for op in OPS for d in DTYPES]
# Heads and rows beyond: the reference.
WIDEST = dict.fromkeys(("window_attention", "csa_attention", "hca_attention"), 500)
WIDEST |= dict.fromkeys(("qkv_prepare", "compressor"), 1000)
SIZES = ((0, 16), (1, 2), (3, 14), (5, 16), (7, 34), (3, 64), (11, 126), (2, 1000), (19, 1500))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("op,dtype", OP_DTYPES, ids=str)
def test_accuracy_poison_and_guards(gpu: EmulatedGpu, op: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    args = sized(op, size[0], min(size[1], WIDEST.get(op, size[1])), dtype)
    got = gpu.run(op, args)
    assert bool(gpu.launches()) == any(g.numel() > 0 for g in got)
    naive, oracle = run_reference(op, args), run_reference(op, oracle_args(op, args))
    products = TENSOR_CORE_OPS.get(op, 0) if dtype == torch.float32 else 0
    looser = max(1.0, FLOAT32_ON_TENSOR_CORES * products)
    for g, n, want in zip(got, naive, oracle, strict=True):
        assert not complaint(g, n, want, looser * ERROR_RATIO[op])


@pytest.mark.parametrize("op,dtype", OP_DTYPES, ids=str)
def test_nan_and_infinity_where_the_reference_has_them(gpu: EmulatedGpu, op: str, dtype: torch.dtype) -> None:
    for args in poisoned(op, sized(op, 5, 126, dtype), dtype):
        got, want = gpu.run(op, args), run_reference(op, args)
        assert all(same_nonfinite(g, w) for g, w in zip(defined(op, got), defined(op, want), strict=True))


@pytest.mark.parametrize("size", [(11, 126), (5, 1500)], ids=str)
@pytest.mark.parametrize("op,dtype", [case for case in OP_DTYPES if case[0] not in SEQUENCED], ids=str)
def test_a_row_alone_has_the_same_bits(gpu: EmulatedGpu, op: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    rows, _ = size
    args = sized(op, *size, dtype)
    of_rows = [isinstance(a, Tensor) and a.dim() > 0 and a.shape[0] == rows for a in args]
    together = gpu.run(op, args)
    for r in (0, rows // 2, rows - 1):
        alone = gpu.run(op, tuple(a[r : r + 1] if yes else a for a, yes in zip(args, of_rows, strict=True)))
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(bits(one), bits(all_[r : r + 1]))


@pytest.mark.parametrize("op,dtype", OP_DTYPES, ids=str)
def test_tensors_at_odd_places_give_the_same_bits(gpu: EmulatedGpu, op: str, dtype: torch.dtype) -> None:
    def further(a: Tensor) -> Tensor:
        """One element behind the begin of memory, as a slice of a larger tensor may lie."""
        return torch.empty(a.numel() + 1, dtype=a.dtype)[1:].view(a.shape).copy_(a)

    args = sized(op, 11, 128, dtype)
    moved = tuple(further(a) if isinstance(a, Tensor) and a.is_contiguous() else a for a in args)
    for one, other in zip(gpu.run(op, args), gpu.run(op, moved), strict=True):
        assert torch.equal(bits(one), bits(other))


# Sizes at which loops with barriers come round again.
LONGER: dict[str, tuple[tuple[int, int], ...]] = {"moe_experts": ((90, 32),)}


# indexer_topk: test_indexer_topk.py, whose lists are long enough for all of its barriers
@pytest.mark.parametrize("op", [op for op in OPS if op != "indexer_topk"])
def test_every_barrier_is_missed(gpu: EmulatedGpu, op: str) -> None:
    """Each barrier left out in turn is a race in some run, so each is needed and the emulator sees that."""
    sizes = ((3, 64), (5, 126), (3, 1500), *LONGER.get(op, ()))
    runs = [sized(op, *size, torch.bfloat16) for size in sizes]
    passed: dict[str, list[int]] = {}
    for i, args in enumerate(runs):
        gpu.run(op, args)
        for barrier in gpu.barriers():
            passed.setdefault(barrier, []).append(i)
    unneeded = []
    for barrier, where in passed.items():
        for i in where:
            try:
                gpu.run(op, runs[i], ignored_barrier=barrier)
            except RuntimeError as fault:
                assert "race: " in str(fault)
                break
        else:
            unneeded.append(barrier)
    assert not unneeded
