"""Matrix products, launched by torch on the emulated chip, against the reference."""

from __future__ import annotations

import pytest
import torch

import v4npu
from v4npu import ops, reference
from v4npu.testing.compare import complaint
from v4npu.testing.tolerances import ERROR_RATIO


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("tokens", "rows", "k"), [(9, 300, 96), (1, 4, 40), (0, 16, 8), (3, 0, 8)])
def test_linear(dtype: torch.dtype, tokens: int, rows: int, k: int) -> None:
    x, weight = normal(tokens, k, dtype=dtype), normal(rows, k, dtype=dtype, seed=1)
    for out_dtype in {dtype, torch.float32}:
        with v4npu.fallback("error"):
            got = ops.linear(x.npu(), weight.npu(), out_dtype)
        assert got.device.type == "npu" and got.is_contiguous()
        exact, naive = x.double() @ weight.double().T, reference.linear(x, weight, out_dtype)
        assert not complaint(got.cpu(), naive, exact, ERROR_RATIO["linear"])
