"""bench/cuda_device.py without a GPU: its parts on the CPU and on the emulated GPU, its table, its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from v4npu import _C
from v4npu.model.config import Config
from v4npu.testing.bench import SMALL, arguments, first
from v4npu.testing.cuda import FOLDER, EmulatedGpu, kernel_sources, script
from v4npu.testing.steps import OPS, step

bench = script("bench/cuda_device.py")
import accelerator  # noqa: E402
import cuda_model  # noqa: E402
import cuda_ops  # noqa: E402
import cuda_status  # noqa: E402

# Few heads, so that it does not take long; the list of 640 places and the picks of 512 are those of V4-Flash.
FEW = replace(Config.preset("flash"), num_attention_heads=8, o_groups=1, index_n_heads=4)


class Emulated(accelerator.Cpu):
    """The parts' device in front of the emulated GPU."""

    def __init__(self, gpu: EmulatedGpu) -> None:
        self._gpu = gpu

    def run(self, op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        out = self._gpu.run(op, args)
        assert self._gpu.launches()
        return out


def case(op: str, args: tuple[Any, ...], *tokens: int) -> Any:
    return cuda_ops.Case(op, "few", "decode", torch.bfloat16, lambda: args, tokens)


@pytest.mark.parametrize("op,keys", [*((op, "fp4_key") for op in OPS), ("indexer_topk", "fp8_key")])
def test_an_emulated_step_passes_the_check(gpu: EmulatedGpu, op: str, keys: str) -> None:
    whole = case(op, step(op, (1, 0, 3), (2_303, 5, 126), FEW, keys), 4, 1)
    assert [row["status"] for row in cuda_ops.check(Emulated(gpu), whole)] == ["ok", "ok"]


@pytest.mark.parametrize("op", ["rms_norm", "act_quant", "gate", "hc_pre"])
def test_an_emulated_kernel_passes_and_a_changed_result_does_not(gpu: EmulatedGpu, op: str) -> None:
    calls, wrong = 0, -1

    class Unsteady(Emulated):
        def run(self, op: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
            nonlocal calls
            calls += 1
            out = super().run(op, args)
            if calls == wrong:
                out[0].view(torch.uint8).view(-1)[1] += 64
            return out

    whole = case(op, arguments(op, 3, torch.bfloat16, SMALL), 3)
    for part, wrong in ((cuda_ops.check, 0), (cuda_ops.check, 1), (cuda_ops.invariance, 0), (cuda_ops.invariance, 3)):
        calls = 0
        statuses = [row["status"] for row in part(Unsteady(gpu), whole)]
        assert (set(statuses) == {"ok"}) == (wrong == 0), statuses


@pytest.mark.parametrize("op", sorted(kernel_sources()))
def test_the_first_tokens_of_a_call_are_a_call(op: str) -> None:
    args = step(op, (1, 0, 3), (7, 5, 2), SMALL) if op in OPS else arguments(op, 4)
    device = accelerator.Cpu()
    whole, few = (cuda_ops.run(device, op, a) for a in (args, first(op, args, 2)))
    # The compressor's first entry is the first sequence's, whose token completes it; the second sequence needs two.
    assert len(few[0]) == (1 if op == "compressor" else 2)
    assert all(accelerator.same_bits(f, w[: len(f)]) for f, w in zip(few, whole, strict=True))


def test_a_dry_run_of_every_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for absent in ("tokenizers", "safetensors", "typer", "rich"):  # torch is all that it needs
        (tmp_path / f"{absent}.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path, program = tmp_path / "rows.jsonl", tmp_path / "sanitizer"
    said = "echo '========= COMPUTE-SANITIZER'; echo ========= $PYTORCH_NO_CUDA_MEMORY_CACHING error"
    program.write_text(f"#!/bin/sh\n{said}\n[ $2 = memcheck ]\n")
    program.chmod(0o755)
    parts = [p for p in bench.PARTS if p != "transformers"]
    more = ["--sanitizer", str(program), "--repeats", "1", "--jsonl", str(path), "--op", "rms_norm", "csa_attention"]
    assert bench.main([*parts, "--device", "cpu", *more]) == 1
    rows = cuda_status.read(path)
    assert {row["part"] for row in rows} == set(parts)
    bad = [row for row in rows if cuda_status.failed(row)]
    assert [(row["case"], row["status"]) for row in bad] == [
        ("compute-sanitizer racecheck", "exit code 1: ========= 1 error")
    ]
    peers = [row for row in rows if row.get("peer") == "torch"]
    assert peers and all(row["status"] == "ok" and row["warm_us"] > 0 for row in peers)
    assert any(row.get("peer") == "FlashMLA" and row["status"] == "not installed" for row in rows)
    out, err = capsys.readouterr()
    assert "rms_norm" in out and "of the floor" in err
    # What a dry run says is nothing about a device.
    assert cuda_status.on_a_device("rms_norm", rows) == cuda_status.NOT_RUN


def test_what_a_part_raises_is_a_row_and_the_next_part_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(bench.cuda_model, "nano", broken)
    monkeypatch.setattr(cuda_ops, "compare", broken)
    assert bench.main(["nano", "check", "invariance", "--device", "cpu", "--op", "rms_norm", "--here"]) == 1
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in said if row["status"] not in (bench.BEGUN, bench.ENDED)]
    failed = "failed: RuntimeError: out of order"
    assert [row["status"] for row in rows] == [failed] * 3 + ["ok"] * 10
    assert [row["part"] for row in rows] == ["nano", "check", "check"] + ["invariance"] * 10


def test_a_transformers_without_the_model_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old(*_: Any) -> None:
        raise ValueError("needs transformers 5.23 or later")

    monkeypatch.setattr(cuda_model, "rows_of_v4npu", lambda *_: iter(()))
    monkeypatch.setattr(cuda_model, "rows_of_transformers", too_old)
    (row,) = cuda_model.end_to_end(accelerator.Cpu(), [16], 2)
    assert row["status"] == "failed: needs transformers 5.23 or later" and not cuda_status.failed(row)


def test_the_table_of_the_readme_is_what_the_results_committed_give(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(cuda_status.README.read_text())
    cuda_status.write(cuda_status.read(cuda_status.RESULTS), copy)
    assert copy.read_text() == (FOLDER / "README.md").read_text()
    assert set(_C.op_names()) == set(kernel_sources())  # the table's rows; each was emulated
    row = {"part": "check", "op": "rope", "sizes": "flash", "case": "rows", "dtype": "bfloat16", "tokens": 1,
           "device": "some GPU", "status": "ok"}  # fmt: skip
    rows = [{**row, "status": "error 1, allowed 0.1"}, row, {**row, "tokens": 8, "status": "failed: no"},
            {**row, "part": "time", "of_floor": 0.25}]  # fmt: skip
    cuda_status.write(rows, copy)
    assert (
        "| rope | sm_80, sm_90a, sm_100 | yes | some GPU: 1 of 2 checks, 1 of 1 timed, 25% to 25% of the floor |"
        in (copy.read_text())
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_without_a_device_every_part_says_so_and_the_exit_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["check", "time"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(",")[0] for line in said.err.splitlines()] == ["check: not run", "time: not run"]
    assert "no CUDA device is present" in said.err


@pytest.mark.parametrize(("argv", "said"), [(["chek"], "no part 'chek'; there are check,"), (["--op", "x"], "--op")])
def test_a_wrong_argument_is_named(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.main(argv)
    assert refused.value.code == 2 and said in capsys.readouterr().err


def test_a_captured_step_takes_nothing_from_the_host_and_gives_it_nothing() -> None:
    seen: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(str(func))
            return func(*args, **(kwargs or {}))

    class Watched(accelerator.Cpu):
        def capture(self, run: Any) -> tuple[Any, Any]:
            with Watch():
                return super().capture(run)

    assert [row["status"] for row in cuda_model.graph(Watched())] == ["ok"] * 3
    # What makes a tensor of Python's numbers, moves one, reads one, or has to know values to size its result.
    host = {
        "lift_fresh",
        "copy_",
        "item",
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "equal",
        "index",
    }
    assert "v4npu.moe_experts.default" in seen and {name for name in seen if ".to." in name} == {"aten.to.dtype"}
    assert not host & {name.split(".")[1] for name in seen}
