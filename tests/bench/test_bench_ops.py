"""`v4npu bench ops`: rows that are timed, rows that are not, and what is refused."""

from __future__ import annotations

import json
import socket

import pytest
import torch

from v4npu import _C
from v4npu.bench import timing
from v4npu.bench.ops import agrees, cases, moved
from v4npu.testing import bench
from v4npu.testing.steps import step

SMALL = ("bench", "ops", "--sizes", "small", "--tokens", "2", "--steps", "1@130", "--seconds", 0, "--threads", 1)


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch):
    monkeypatch.setattr(timing, "peaks", lambda *_: (1e10, 1e11))


def test_every_operator_is_checked_timed_and_written(v4npu_command, tmp_path):
    path = tmp_path / "rows.jsonl"
    threads = torch.get_num_threads()
    status, out, err = v4npu_command(*SMALL, "--isa", "portable", "--json", path)
    assert status == 0, err
    assert torch.get_num_threads() == threads and list(tmp_path.iterdir()) == [path]
    first, *rows = map(json.loads, path.read_text().splitlines())
    assert (first["kind"], first["schema"], first["isa"], first["threads"]) == ("environment", 1, "portable", 1)
    assert first["read_peak"] == 1e10 and first["torch"] == torch.__version__ and len(first["commit"] or "-" * 40) >= 40
    assert socket.gethostname() not in path.read_text()
    assert [row["op"] for row in rows] == _C.op_names()
    for row in rows:
        assert row["status"] == "ok" and row["kind"] == "ops" and row["device"] == "cpu" and row["dtype"] == "bfloat16"
        assert 0 < row["best"] <= row["p5"] <= row["seconds"] <= row["p95"] and row["repeats"] >= 3
        assert row["limit"] == max(row["bytes"] / 1e10, row["flops"] / 1e11) / row["seconds"]
        assert row["op"] in out
    _C.use_cpu_isa("")


def test_a_wrong_kernel_gets_no_time(v4npu_command, monkeypatch):
    right = torch.ops.v4npu.swiglu
    monkeypatch.setattr(torch.ops.v4npu, "swiglu", lambda *args: right(*args) * 1.1)
    status, out, err = v4npu_command(*SMALL, "--op", "swiglu", "--op", "act_quant", "--json", "-")
    rows = {row.get("op"): row for row in map(json.loads, out.splitlines())}
    assert status == 1 and "no time for what is wrong: swiglu" in err and err.count("\n") == 1
    assert rows["swiglu"]["status"].startswith("wrong") and "seconds" not in rows["swiglu"]
    assert rows["act_quant"]["status"] == "ok" and rows["act_quant"]["seconds"] > 0
    assert "WRONG" in v4npu_command(*SMALL, "--op", "swiglu")[1]


def test_moved_pages_are_as_far_apart():
    pages = step("hca_attention", (1,), (300,), bench.SMALL)[3]
    assert pages.stride(0) > pages.shape[1] * pages.shape[2]  # a row of 584 bytes, a page of 640
    assert moved(pages, "meta").stride() == pages.stride() and torch.equal(moved((pages,), "cpu")[0], pages)


@pytest.mark.parametrize(
    "error, expected",
    [
        (NotImplementedError("v4npu.rope: none here"), 0),
        (RuntimeError('v4npu.rope: ascendc, and v4npu.fallback is "error"'), 0),  # from behind a launcher
        (RuntimeError("device lost"), 1),
    ],
)
def test_a_device_without_a_kernel_gets_no_time(v4npu_command, monkeypatch, error, expected):
    def absent(*_):
        raise error

    monkeypatch.setattr(torch.ops.v4npu, "rope", absent)
    status, out, _ = v4npu_command(*SMALL, "--op", "rope")
    assert (status, "NO KERNEL" in out) == (expected, expected == 0)


@pytest.mark.parametrize(
    ("got", "same"),
    [
        (torch.ones(2), True),
        (torch.tensor([1, torch.nan]), False),
        (torch.ones(2, dtype=torch.bfloat16), False),
        (torch.ones(3), False),
        (torch.tensor([1, 1.01]), False),
    ],
)
def test_what_agrees(got, same):
    assert agrees(got, torch.ones(2), torch.float32) == same
    assert agrees((got, torch.tensor([3])), (got, torch.tensor([4])), torch.float32) is False
    assert agrees(torch.tensor([1, 1.01]), torch.ones(2), torch.bfloat16)


def test_the_cases_of_a_dtype():
    both = ["rope", "csa_attention"]
    assert cases(both, torch.float32, [1, 8], [(1, 64)]) == [("rope", 1, 0), ("rope", 8, 0)]
    assert cases(both, torch.bfloat16, [8], [(1, 64)]) == [("rope", 8, 0), ("csa_attention", 1, 63)]
    assert moved((1, (torch.ones(1),)), "meta")[1][0].device.type == "meta"


def test_the_clock_and_the_peaks(monkeypatch):
    monkeypatch.undo()
    clock = timing.Clock(torch.device("cpu"))
    read, gemm = timing.peaks(clock, torch.float32, 0)
    assert read > 1e8 and gemm > 1e8
    assert timing.stats([3.0, 1.0, 2.0]) == {"seconds": 2.0, "best": 1.0, "p5": 1.0, "p95": 3.0, "repeats": 3}
    monkeypatch.setenv("V4NPU_EMULATE_SOC", "x")
    emulated = timing.Clock(torch.device("meta"))
    assert "not performance" in emulated.method and timing.peaks(emulated, torch.float32, 0) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "huge"], "--sizes 'huge' is none of small, flash, pro"),
        (["--op", "nix"], "--op 'nix' is none of rms_norm,"),
        (["--isa", "nix"], "--isa 'nix' is none of"),
        (["--tokens", "0"], "--tokens must be numbers from 1"),
        (["--tokens", "1" * 5000], "--tokens must be numbers"),
        (["--steps", "9@8"], "--steps must be TOKENS@END"),
        (["--device", "gpu"], "device must be"),
        (["--threads", "0"], "--threads"),
        (["--seconds", "nan"], "--seconds"),
        (["--dtype", "float32", "--op", "csa_attention"], "nothing to measure"),
        (["--json", "/nonexistent/rows"], "--json /nonexistent/rows: No such file"),
    ],
)
def test_what_is_refused(v4npu_command, arguments, said):
    status, out, err = v4npu_command("bench", "ops", *arguments)
    assert (status, out) == (2, "") and said in err and err.count("\n") == 1


def test_a_file_that_was_there_stays_until_all_is_measured(v4npu_command, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def broken(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(torch.ops.v4npu, "rope", broken)
    assert v4npu_command(*SMALL, "--op", "hadamard", "--op", "rope", "--json", path)[0] == 1
    assert path.read_text() == "old"
    assert [json.loads(t)["kind"] for t in (tmp_path / "rows.jsonl.part").read_text().splitlines()][1:] == ["ops"]
    v4npu_command(*SMALL, "--op", "hadamard", "--json", "/dev/null")
    assert not open("/dev/null").read()
