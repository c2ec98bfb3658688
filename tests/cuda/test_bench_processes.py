"""What bench/cuda_device.py does about programs that fail, fault or hang: nvcc, those of its own, compute-sanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from v4npu.testing.cuda import script

bench = script("bench/cuda_device.py")
import cuda_status  # noqa: E402


def test_a_program_out_of_time_is_killed_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(subprocess.TimeoutExpired):
        bench.output_of(["sh", "-c", f"(sleep 2; touch {mark}) & wait"], 0.3)
    assert bench.output_of(["sh", "-c", "echo out; echo err >&2; exit 3"], 60) == (3, "out\nerr\n")
    time.sleep(2.2)
    assert not mark.exists()


FAULTS = """
import os, sys, time
sys.path.insert(0, sys.argv.pop(1))
import cuda_device, cuda_ops
def check(device, case):
    if case.op == "hadamard":
        time.sleep(60)
    if case.op == "rms_norm" and case.row(0)["dtype"] == "bfloat16":
        device.works = lambda: False
        raise RuntimeError("illegal address")
    print("a library's line")
    yield case.row(1) | {"status": "ok"}
    if case.op == "rope" and case.row(0)["dtype"] == "bfloat16":
        os._exit(7)
cuda_ops.check = check
sys.exit(cuda_device.main())
"""


def test_the_run_goes_on_behind_what_ends_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child, path = tmp_path / "child.py", tmp_path / "rows.jsonl"
    child.write_text(FAULTS)
    monkeypatch.setattr(bench, "PROGRAM", [sys.executable, str(child), str(bench.ROOT / "bench")])
    ops = ["hadamard", "rms_norm", "rope"]
    assert bench.main(["check", "--device", "cpu", "--seconds", "5", "--jsonl", str(path), "--op", *ops]) == 1
    assert [(row["op"], row["dtype"], row["status"]) for row in cuda_status.read(path)] == [
        ("hadamard", "bfloat16", "failed: nothing came of it for 5 s"),  # float32 might take as long
        ("rms_norm", "bfloat16", "failed: RuntimeError: illegal address"),
        ("rms_norm", "float32", "ok"),
        ("rope", "bfloat16", "ok"),
        ("rope", "bfloat16", "failed: its process ended with exit code 7"),
        ("rope", "float32", "ok"),
    ]


def test_a_process_that_does_not_start_is_a_row(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(bench, "PROGRAM", ["false"])
    assert bench.main(["check", "time", "--device", "cpu"]) == 1
    assert "check start: failed: its process ended with exit code 1" in " ".join(capsys.readouterr().err.split())


def test_an_operator_that_nvcc_refuses_is_a_row_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*_: Any, **__: Any) -> None:
        raise KeyError("rope on sm_90a: 41 registers, limit 40")

    monkeypatch.setenv("V4NPU_CUDA_KERNELS", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "script", lambda _: SimpleNamespace(build=build, BuildError=KeyError))
    row = '{"part": "check", "op": "", "case": "", "status": "ok"}'
    monkeypatch.setattr(bench, "PROGRAM", ["sh", "-c", f"echo '{row}'; echo '{{\"status\": \"ended\"}}'"])
    assert bench.main(["check"]) == 1
    assert os.environ["V4NPU_CUDA_KERNELS"] == str(bench.ROOT / "build/cuda")
    said = capsys.readouterr().out
    assert "build: 0 of 1 rows ok" in said and "limit 40" in said and "check: 1 of 1 rows ok" in said
