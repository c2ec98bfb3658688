"""What the kernel is asked for where memory is large: whether it has such pages to give is its own business."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import v4npu
from v4npu import ops

SMAPS = Path("/proc/self/smaps")
pytestmark = pytest.mark.skipif(
    not SMAPS.exists() or not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no such pages here"
)


def mappings() -> Iterator[tuple[int, int]]:
    """Begin and end of all memory that large pages were asked for."""
    span = (0, 0)
    for line in SMAPS.read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            low, high = first.split("-")
            span = int(low, 16), int(high, 16)
        elif first == "VmFlags:" and "hg" in rest:
            yield span


def advised(tensor: Tensor) -> bool:
    """Whether the middle of a tensor lies in them."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    return any(low <= middle < high for low, high in mappings())


def test_large_results_and_weights() -> None:
    x = torch.zeros(1 << 11, 1 << 13, dtype=torch.bfloat16)
    assert advised(ops.rms_norm(x, None, 1e-6))
    before = [*mappings()]
    _small = ops.rms_norm(x[:64], None, 1e-6)  # which may lie where a large one was
    assert [*mappings()] == before
    model = v4npu.load("nano")
    assert all(advised(w) for w in model.state_dict().values() if w.nbytes > 1 << 17)
