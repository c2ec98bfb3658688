"""formats.h against torch's own dtypes: every code decoded, every bf16 value encoded."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from v4npu.reference import formats

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    program = tmp_path_factory.mktemp("formats") / "table"
    source = Path(__file__).with_name("formats_table.cpp")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc/include'}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
    rows = defaultdict(list)
    for line in subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines():
        kind, *fields = line.split()
        rows[kind].append(fields)
    return rows


def number(text: str) -> float:
    return float("nan") if "nan" in text else float.fromhex(text)


def column(rows: list[list[str]], at: int) -> torch.Tensor:
    return torch.tensor([int(row[at]) for row in rows])


def all_bf16() -> torch.Tensor:
    return torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).float()


def test_every_code_decodes_as_torch_has_it(table: dict[str, list[list[str]]]) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    got = torch.tensor([[number(field) for field in row[1:]] for row in table["decode"]])
    torch.testing.assert_close(got[:, 0], codes.view(torch.float8_e4m3fn).float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got[:, 1], formats.e2m1_decode(codes & 15), rtol=0, atol=0)
    torch.testing.assert_close(got[:, 2], codes.view(torch.float8_e8m0fnu).float(), rtol=0, atol=0, equal_nan=True)


def test_every_bf16_encodes_to_e4m3_as_torch_rounds_it(table: dict[str, list[list[str]]]) -> None:
    # Clamped, because torch versions differ on what lies beyond 448; the header saturates.
    want = all_bf16().clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).long()
    assert torch.equal(column(table["encode"], 1), want)


def test_every_finite_bf16_encodes_to_the_nearest_e2m1_ties_to_even(
    table: dict[str, list[list[str]]],
) -> None:
    x = all_bf16()
    finite = ~x.isnan()
    x, got = x[finite].clamp(-6, 6), column(table["encode"], 2)[finite]
    values = formats.e2m1_decode(torch.arange(8, dtype=torch.uint8))
    # Distance first, then oddness: among equally near codes the even one.
    cost = (x.abs()[:, None] - values).abs().double() * 1e6 + torch.arange(8) % 2
    assert torch.equal(got & 7, cost.argmin(1))
    assert torch.equal(got >> 3, torch.signbit(x).long())


@pytest.mark.parametrize(("at", "top", "floor"), [(3, 448.0, 1e-4), (4, 6.0, 6 * 2.0**-126)])
def test_block_scale_is_the_least_power_of_two_that_fits(
    table: dict[str, list[list[str]]], at: int, top: float, floor: float
) -> None:
    amax = all_bf16().abs()
    finite = amax.isfinite()
    exponent = column(table["encode"], at)[finite] - 127
    needed = amax[finite].double().clamp_min(floor) / top
    assert bool((needed <= torch.exp2(exponent.double())).all())
    assert bool((needed > torch.exp2(exponent.double() - 1)).all())


def test_block_scale_examples() -> None:
    q, scale = formats.act_quant(torch.tensor([[1.0], [448.0], [450.0], [0.0]]))
    assert scale.view(torch.uint8).flatten().tolist() == [119, 127, 128, 105]
    assert q.float().flatten().tolist() == [256.0, 448.0, 224.0, 0.0]


def test_bf16_rounds_to_nearest_even(table: dict[str, list[list[str]]]) -> None:
    bits = column(table["bf16"], 0).to(torch.int32)
    want = bits.view(torch.float32).to(torch.bfloat16).view(torch.uint16).long()
    assert torch.equal(column(table["bf16"], 1), want)
