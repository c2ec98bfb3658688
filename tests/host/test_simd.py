"""backends/cpu/simd.h: every primitive on every instruction set of this machine."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from v4npu import _C
from v4npu.reference import formats
from v4npu.testing.cuda import script

ROOT = Path(__file__).parents[2]
INSTRUCTION_SETS = script("bench/extension.py").instruction_sets()
STRIDE = "4096"  # of the exponential's inputs; 1 = every float32, which takes a minute
Table = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=_C.cpu_isas())
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    program = tmp_path_factory.mktemp("simd") / "table"
    command = [compiler, "-std=c++20", "-O1", "-ffp-contract=off", *INSTRUCTION_SETS[request.param]]
    command += [f"-DV4NPU_ISA={request.param}", f"-I{ROOT / 'csrc/include'}", f"-I{ROOT / 'backends/cpu'}"]
    subprocess.run([*command, str(Path(__file__).with_name("simd_table.cpp")), "-o", str(program)], check=True)
    return subprocess.run([program, STRIDE], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def table(printed: str) -> Table:
    rows: dict[str, list[int]] = {}
    for line in printed.splitlines()[2:]:
        name, *words = line.split()
        rows.setdefault(name, []).extend(int(word, 16) for word in words)
    return {name: torch.tensor(row, dtype=torch.uint32).view(torch.float32) for name, row in rows.items()}


def test_the_exponential_is_within_an_ulp(printed: str) -> None:
    name, worst, _ = printed.splitlines()[0].split()
    assert name == "exp" and float.fromhex(worst) <= 1.05


def test_softplus_is_within_four_ulp(printed: str) -> None:
    name, worst, _ = printed.splitlines()[1].split()
    assert name == "softplus" and float.fromhex(worst) <= 4.0


def test_encoders_bfloat16_and_tails(printed: str) -> None:
    assert "wrong" not in printed


def test_every_code_decodes(table: Table) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    e4m3 = codes.view(torch.float8_e4m3fn).float()
    torch.testing.assert_close(table["e4m3"], e4m3, rtol=0, atol=0, equal_nan=True)
    e2m1 = formats.e2m1_decode(formats.unpack_nibbles(codes.view(torch.int8)))
    assert torch.equal(table["e2m1"], e2m1) and torch.equal(table["e2m1"].signbit(), e2m1.signbit())
    assert torch.equal(table["e4m3"].signbit()[:127], e4m3.signbit()[:127])


def test_arithmetic(table: Table) -> None:
    a, b = table["a"], table["b"]
    want = {
        "add": a + b, "sub": a - b, "mul": a * b, "div": a / b, "max": torch.maximum(a, b), "min": torch.minimum(a, b),
        "swap": a.view(8, 2).flip(1).flatten(), "round": (a * b).round(), "reduce_max": b.max().view(1),
    }  # fmt: skip
    for name, value in want.items():
        assert torch.equal(table[name], value), name
    lanes = torch.arange(16)
    for width in (1, 2, 4, 8):
        assert torch.equal(table[f"swap{width}"], a[lanes ^ width])
    root = torch.tensor([math.sqrt(value) for value in a.tolist()])  # torch's own may be off in the last place
    assert torch.equal(table["sqrt"], root) and torch.equal(table["magnitude"], b.abs())
    assert torch.equal(table["negative"], -a) and torch.equal(table["max_bits"], torch.maximum(a, b.abs()))
    assert table["nan_max"].isnan().all() and table["nan_min"].isnan().all()


def test_the_sum_adds_halves(table: Table) -> None:
    lanes = table["a"]
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    assert torch.equal(table["reduce_add"], lanes)


def test_the_bfloat16_dot_product_sums_pairs(table: Table) -> None:
    products = torch.arange(1.0, 33) * (torch.arange(32) % 5 - 2)
    assert torch.equal(table["dot"], 100 + products.view(16, 2).sum(1))


def test_neighbours_of_bfloat16_lie_side_by_side(table: Table) -> None:
    ordered = torch.stack([torch.arange(1.0, 33), torch.arange(32.0) % 5 - 2], 1).bfloat16()
    for name, want in (("pairs", ordered[:16]), ("pairs_above", ordered[16:])):
        assert torch.equal(table[name].view(torch.bfloat16).view(16, 2), want)
    rounded = table["pairs_rounded"].view(torch.bfloat16).view(16, 2)
    assert torch.equal(rounded, torch.tensor([[1.0, -3.0]] * 16, dtype=torch.bfloat16))  # a tie goes to even
