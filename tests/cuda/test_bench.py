"""The part of bench/cuda_device.py that needs no GPU: cases, checks, rows, and what it says without a device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from v4npu.model.config import Config
from v4npu.testing.bench import SMALL
from v4npu.testing.cuda import EmulatedGpu, kernel_sources, script
from v4npu.testing.steps import OPS, step

bench = script("bench/cuda_device.py")


def test_every_kernel_has_a_case_and_arguments() -> None:
    found = list(bench.cases([], [1]))
    assert {case[0] for case in found} == set(kernel_sources())
    for op, tokens, context, dtype in found:
        args = bench.arguments(op, tokens, context, dtype, SMALL)
        assert any(isinstance(a, torch.Tensor) and a.shape[0] == tokens for a in args)
    assert len(list(bench.cases(["rope"], [1, 8]))) == 4


# Few heads, so that it does not take long; the list of 640 places and the picks of 512 are those of V4-Flash.
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("context", [127, 2_303])
def test_an_emulated_decode_step_passes_the_check(gpu: EmulatedGpu, op: str, context: int) -> None:
    small = replace(Config.preset("flash"), num_attention_heads=8, o_groups=1, index_n_heads=4)
    args = step(op, 2, 1, context, small)
    assert bench.check(op, args, gpu.run) == "" and gpu.launches()


@pytest.mark.parametrize("op", ["rms_norm", "act_quant", "gate", "hc_pre"])
def test_an_emulated_kernel_passes_the_check_and_a_changed_result_fails_it(gpu: EmulatedGpu, op: str) -> None:
    args = bench.arguments(op, 1, 0, torch.bfloat16, SMALL)
    assert bench.check(op, args, gpu.run) == ""
    calls = 0

    def changed(op: str, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        out = gpu.run(op, args)
        out[0].view(torch.uint8).view(-1)[1] += 64
        return out

    def unsteady(op: str, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal calls
        calls += 1
        return changed(op, args) if calls == 2 else gpu.run(op, args)

    assert bench.check(op, args, changed)
    assert bench.check(op, args, unsteady) == "two runs differ"


def test_no_time_stands_beside_a_failed_check() -> None:
    rows = [
        bench.Row("rope", 8, 0, "bfloat16", "ok", "some GPU", 3.25, 4.5, 12.0),
        bench.Row("gate", 8, 99, "bfloat16", "error 1, allowed 0.1", "some GPU"),
    ]
    lines = bench.table(rows).splitlines()
    assert lines[1].split() == ["rope", "8", "0", "bfloat16", "3.2", "4.5", "12.0", "ok"]
    assert lines[2].split()[:7] == ["gate", "8", "99", "bfloat16", "-", "-", "-"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_without_a_device_every_row_says_so_and_the_exit_code_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    assert bench.main(["--jsonl", str(path), "--tokens", "1"]) == 2
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["op"] for row in rows} == set(kernel_sources())
    assert all(row["status"] == "not run on a device" and row["warm_us"] is None for row in rows)
    said = capsys.readouterr()
    assert "no CUDA device is present: nothing was run" in said.err
    assert " ok" not in said.out
