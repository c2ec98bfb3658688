"""Everything here runs with torch-npu on an emulated Ascend NPU (`make test-npu`); no device is involved."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session", autouse=True)
def emulated_npu() -> None:
    assert os.environ["V4NPU_EMULATE_SOC"], "run under `v4npu emulate`"
    assert torch.npu.is_available()


@pytest.fixture(scope="session")
def variants() -> dict[str, str]:
    """Operator -> variant, as the table of backends/ascend/README.md has it."""
    readme = (Path(__file__).parents[2] / "backends/ascend/README.md").read_text()
    return dict(re.findall(r"^\| (\w+) \| (ascendc|reference) \|", readme, re.MULTILINE))


@pytest.fixture
def same() -> Callable[..., None]:
    """same(f, *tensors): f gives on the NPU what it gives on the CPU, to `rtol` of the largest if floating point."""

    def check(f: Callable[..., Any], *arguments: Any, rtol: float = 2e-7) -> None:
        moved = [a.npu() if isinstance(a, Tensor) else a for a in arguments]
        got, wanted = f(*moved), f(*arguments)
        for g, w in zip(*(x if isinstance(x, tuple | list) else (x,) for x in (got, wanted)), strict=True):
            assert g.device.type == "npu" and g.dtype == w.dtype and g.shape == w.shape
            back = g.cpu()
            if rtol and back.is_floating_point() and w.numel() > 0:
                largest = w.nan_to_num(0, 0, 0).abs().max().item()
                torch.testing.assert_close(back, w, rtol=rtol, atol=rtol * largest, equal_nan=True)
            else:
                assert torch.equal(back, w)

    return check
