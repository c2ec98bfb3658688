"""Matrix products, launched by torch on the emulated chip, against the reference."""

from __future__ import annotations

import pytest
import torch

import v4npu
from v4npu import ops, reference
from v4npu.reference.formats import dequantise_rows, dequantise_weight, quantise_weight_fp4, quantise_weight_fp8
from v4npu.testing.cases import as_halves, experts_problem
from v4npu.testing.compare import complaint, oracle_args
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


@pytest.mark.parametrize(("tokens", "rows"), [(9, 300), (1, 4), (0, 16)])
@pytest.mark.parametrize("op", ["fp8_linear", "fp4_linear"])
def test_quantised(op: str, tokens: int, rows: int) -> None:
    weight, scale = (quantise_weight_fp8 if op == "fp8_linear" else quantise_weight_fp4)(normal(rows, 288, seed=1))
    plain, x = dequantise_weight(weight, scale, torch.float64), normal(tokens, 288)
    for operand in ((x, None), (x.bfloat16(), None), reference.act_quant(x, 128)):
        exact = (operand[0] if operand[1] is None else dequantise_rows(*operand, 128)).double() @ plain.T
        for out_dtype in (torch.float32,) if operand[0].dtype == torch.float32 else (torch.float32, torch.bfloat16):
            args = (*operand, weight, scale, out_dtype)
            with v4npu.fallback("error"):
                got = getattr(ops, op)(*(a.npu() if isinstance(a, torch.Tensor) else a for a in args))
            assert not complaint(got.cpu(), getattr(reference, op)(*args), exact, ERROR_RATIO[op])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fp8", [False, True])
def test_grouped_linear(dtype: torch.dtype, fp8: bool) -> None:
    x, plain = normal(5, 3, 96, dtype=dtype), normal(3 * 40, 96, dtype=dtype, seed=1)
    weight, scale = quantise_weight_fp8(plain.float()) if fp8 else (plain, None)
    with v4npu.fallback("error"):
        got = ops.grouped_linear(x.npu(), weight.npu(), None if scale is None else scale.npu())
    exact = reference.grouped_linear(x.double(), dequantise_weight(weight, scale, torch.float64), None)
    assert not complaint(got.cpu(), reference.grouped_linear(x, weight, scale), exact, ERROR_RATIO["grouped_linear"])


@pytest.mark.parametrize(("dtype", "official"), [(torch.float32, False), (torch.bfloat16, True)], ids=str)
@pytest.mark.parametrize("kind", ["plain", "fp8", "fp4"])
def test_moe_experts(kind: str, dtype: torch.dtype, official: bool) -> None:
    args = (*experts_problem(20, 5, kind, width=40 if kind == "plain" else 160, dtype=dtype), 1.0, official)
    held = [a.npu() if isinstance(a, torch.Tensor) else a for a in args]
    with v4npu.fallback("error"):
        got = ops.moe_experts(*held).cpu()
        alone = ops.moe_experts(*(a[7:8] for a in held[:3]), *held[3:]).cpu()
        whole = ops.moe_experts(*held, held[0]).cpu()
        held[3], held[5] = as_halves(held[3], held[5])  # read where they lie
        apart = ops.moe_experts(*held).cpu()
    assert torch.equal(alone, got[7:8]) and torch.equal(apart, got)
    assert torch.equal(whole, (got + args[0].float()).to(dtype))
    exact = reference.moe_experts(*oracle_args("moe_experts", args))
    assert not complaint(got, reference.moe_experts(*args), exact, ERROR_RATIO["moe_experts"])
