"""What the kernel is asked for where memory is large: whether it has such pages to give is its own business."""

from __future__ import annotations

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


def advised(tensor: Tensor) -> bool:
    """Whether large pages were asked for under the middle of a tensor."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in SMAPS.read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first:
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= middle < high
        elif inside and first == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("memory that is mapped nowhere")


def test_large_results_and_weights() -> None:
    x = torch.zeros(1 << 11, 1 << 13, dtype=torch.bfloat16)
    assert advised(ops.rms_norm(x, None, 1e-6)) and not advised(ops.rms_norm(x[:1], None, 1e-6))
    model = v4npu.load("nano")
    assert all(advised(w) for w in model.state_dict().values() if w.nbytes > 1 << 17)
