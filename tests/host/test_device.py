"""device.py: what exists and why not, plans, and the fallback policy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import v4npu
from v4npu import _C, device


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("V4NPU_FALLBACK", raising=False)
    _C.use_cpu_isa("")
    monkeypatch.setattr(device, "_warned", set())
    device._import_torch_npu.cache_clear()
    yield
    device._import_torch_npu.cache_clear()


@pytest.fixture
def two_npus(monkeypatch: pytest.MonkeyPatch) -> None:
    npu = types.SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda i: f"Ascend950DT_{i}"
    )
    monkeypatch.setitem(sys.modules, "torch_npu", types.SimpleNamespace(npu=npu))


def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    monkeypatch.delitem(sys.modules, "torch_npu")
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)


def test_cpu_is_always_there() -> None:
    assert device.resolve("cpu") == torch.device("cpu")
    assert device.resolve(torch.device("cpu")) == torch.device("cpu")
    assert device.status("cpu").available


def test_auto_falls_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    no_accelerator(monkeypatch)
    assert device.resolve() == torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "npu: 1", "cuda:1:2", "npu:²"]
)
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r'device must be "auto", "cpu", "cuda\[:i\]" or "npu\[:i\]", got'):
        device.resolve(name)


@pytest.mark.parametrize(("name", "why"), [("cuda", "built without CUDA"), ("npu:3", "torch_npu is not installed")])
def test_an_absent_device_says_why_and_what_there_is(monkeypatch: pytest.MonkeyPatch, name: str, why: str) -> None:
    no_accelerator(monkeypatch)
    with pytest.raises(ValueError, match=rf"'{name}' is not available: .*{why}; available: cpu$"):
        device.resolve(name)


def test_an_npu_is_found_once_its_plugin_is_there(two_npus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.torch, "device", str)  # the name "npu" exists only under the real plugin
    assert str(device.resolve("npu:1")) == "npu:1"
    assert str(device.resolve("auto")) == "npu:0"
    with pytest.raises(ValueError, match=r"'npu:2' is not available: there are 2, counted from 0"):
        device.resolve("npu:2")


def test_a_plugin_is_not_imported_without_a_sign_of_its_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    no_accelerator(monkeypatch)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(device.os.path, "exists", lambda path: False)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.setattr(device.importlib, "import_module", lambda name: pytest.fail("imported"))
    assert "ASCEND_HOME_PATH" in device.status("npu").reason


def test_a_plugin_that_fails_to_import_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libhccl.so: cannot open shared object file")

    no_accelerator(monkeypatch)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("ASCEND_HOME_PATH", "/nonexistent")
    monkeypatch.setattr(device.importlib, "import_module", broken)
    assert "OSError: libhccl.so" in device.status("npu").reason


def test_explain_needs_no_device() -> None:
    found = v4npu.explain("indexer_topk", device="npu", soc="ascend950dt", num_tokens=4)
    assert found.variant == "ascendc" and found.dims == {"num_tokens": 4}
    assert "indexer_topk on npu (ascend950dt): ascendc" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["reason"] == found.reason


def test_explain_knows_for_which_chips_there_are_kernels() -> None:
    for soc in ("ascend910b1", "ascend910_9391", "ascend950pr_9589", "ascend950dt"):
        assert v4npu.explain("rms_norm", "npu", soc).variant == "ascendc"
    refused = v4npu.explain("rms_norm", "npu", "ascend310p3")
    assert refused.variant == "reference" and "not for ascend310p3" in refused.reason
    absent = v4npu.explain("rms_norm", "npu")
    assert absent.variant == "reference" and "torch-npu has loaded no Ascend runtime" in absent.reason


def test_explain_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"op must be one of rms_norm.*got 'csa'"):
        v4npu.explain("csa")
    with pytest.raises(ValueError, match="device must be"):
        v4npu.explain("gate", device="tpu")
    with pytest.raises(ValueError, match="soc must be the name of a chip, None for the cpu"):
        v4npu.explain("gate", device="cpu", soc="ascend950dt")
    with pytest.raises(ValueError, match="soc must be the name of a chip, None for the cpu, got 950"):
        v4npu.explain("gate", device="npu", soc=950)  # type: ignore[arg-type]
    assert v4npu.explain("gate", device=torch.device("cpu")) == v4npu.explain("gate", device="cpu")


ASK = """
import torch, v4npu
try:
    v4npu.ops.rms_norm(torch.ones(1, 2), None, 1e-6)
    print(v4npu.explain("rms_norm", device="cpu").variant)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("name", [*_C.cpu_isas(), "sse2"])
def test_the_environment_chooses_the_instruction_set(name: str) -> None:
    env = {**os.environ, "V4NPU_CPU_ISA": name, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=True).stdout
    isas = ", ".join(_C.cpu_isas())
    refusal = f'v4npu: V4NPU_CPU_ISA must be one of {isas} on this CPU, got "{name}"'
    assert said.strip() == (name if name in _C.cpu_isas() else refusal)


def test_doctor_says_which_instruction_set_the_kernels_use() -> None:
    assert f"kernels: {_C.cpu_isas()[0]} (V4NPU_CPU_ISA chooses among" in str(v4npu.doctor())


def test_an_unknown_instruction_set_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match=r'name must be one of .*portable on this CPU, got "mmx"'):
        _C.use_cpu_isa("mmx")
    assert v4npu.explain("rms_norm", device="cpu").variant == _C.cpu_isas()[0]


def test_doctor_reports_every_op_and_device() -> None:
    report = v4npu.doctor()
    found = json.loads(json.dumps(report.to_dict()))
    assert list(found["ops"]) == _C.op_names()
    assert {"v4npu", "torch", "python", "platform"} == set(found["versions"])
    assert [d["kind"] for d in found["devices"]] == ["cpu", "cuda", "npu"]
    assert all(d["available"] or d["reason"] for d in found["devices"])
    assert all(op in str(report) for op in _C.op_names())


def test_warns_once_per_op_and_device() -> None:
    with pytest.warns(
        RuntimeWarning, match=r"v4npu\.indexer_topk: the plain torch reference runs on npu: ascendc: no npu that"
    ):
        device.note_reference("indexer_topk", "npu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device.note_reference("indexer_topk", "npu")
        device.note_reference("gate", "cpu")  # the reference is the cpu's own variant
    with pytest.warns(RuntimeWarning, match="on cuda"):
        device.note_reference("gate", "cuda")


def test_error_policy_raises_with_the_reason_and_ends_with_the_block() -> None:
    with v4npu.fallback("error"):
        with pytest.raises(NotImplementedError, match=r"v4npu\.indexer_topk: ascendc: no npu that it can be"):
            device.note_reference("indexer_topk", "npu")
        with v4npu.fallback("allow"), warnings.catch_warnings():
            warnings.simplefilter("error")
            device.note_reference("indexer_topk", "npu")
        with pytest.raises(NotImplementedError):
            device.note_reference("gate", "xpu")
    with pytest.warns(RuntimeWarning):
        device.note_reference("indexer_topk", "npu")


def test_the_environment_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V4NPU_FALLBACK", "error")
    with pytest.raises(NotImplementedError):
        device.note_reference("gate", "cuda")
    monkeypatch.setenv("V4NPU_FALLBACK", "sometimes")
    with pytest.raises(ValueError, match=r"V4NPU_FALLBACK must be .*got 'sometimes'"):
        device.note_reference("gate", "cuda")


def test_an_unknown_policy_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r'policy must be "warn", "error" or "allow", got \'quiet\''):
        v4npu.fallback("quiet")


def test_an_absent_device_fails_the_operator_tests() -> None:
    tests = Path(__file__).parents[1] / "ops" / "test_operators.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), "-k", "rms_norm and float64"]
    env = {**os.environ, "V4NPU_TEST_DEVICE": "cuda:99"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "1 error" in done.stdout
    assert "V4NPU_TEST_DEVICE: v4npu: device 'cuda:99' is not available" in done.stdout
