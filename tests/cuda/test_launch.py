"""The launch path: what happens without a driver, without kernels, when a launch fails, and what cuda.h says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from v4npu.testing.cases import int32, sized
from v4npu.testing.cuda import EmulatedGpu, kernel_sources

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc")


def in_new_process(code: str, *argv: str, **env: str) -> str:
    """What `code` prints; the operators of a process ask for the device once."""
    prelude = "import torch, v4npu\nCUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)\nx = torch.ones(2, 8)\n"
    clean = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run([sys.executable, "-c", prelude + code, *argv], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


LAUNCH = """
try:
    torch.ops.v4npu.rms_norm.default.redispatch(CUDA, x, None, 1e-6)
except RuntimeError as error:
    print(error)
"""


def test_without_a_driver_the_cpu_serves_and_a_cuda_launch_says_why() -> None:
    out = in_new_process("print(torch.ops.v4npu.hadamard(x).sum().item())" + LAUNCH)
    assert out.splitlines()[0] == str(torch.ops.v4npu.hadamard(torch.ones(2, 8)).sum().item())
    if not Path("/dev/nvidiactl").exists():
        assert "the CUDA driver cannot be loaded: libcuda.so.1" in out


def test_every_kernel_is_registered_under_its_key() -> None:
    for op in kernel_sources():
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"v4npu::{op}", "CUDA")


def test_a_failed_launch_names_operator_kernel_shape_and_the_drivers_text(gpu: EmulatedGpu) -> None:
    x = torch.ones(2, 8)
    weight = torch.ones(8)
    gpu.run("rms_norm", (x, weight, 1e-6))
    gpu._driver.emulation_reset(b"")  # nothing may be touched now
    overload = torch.ops.v4npu.rms_norm.default
    with pytest.raises(RuntimeError) as raised:
        overload.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), x, weight, 1e-6)
    text = str(raised.value)
    assert "v4npu.rms_norm, rms_norm_fp32_fp32 <<<(1, 1, 1), 256, 0>>> failed: CUDA_ERROR_ILLEGAL_ADDRESS" in text
    assert "illegal address: reads at device.cuh:" in text and text.endswith("CUDA_LAUNCH_BLOCKING=1 tells)")
    assert torch.equal(gpu.run("rms_norm", (x, weight, 1e-6))[0], torch.ops.v4npu.rms_norm(x, weight, 1e-6))


# More tiles of tokens than a grid's y and z hold, in the wide layout of a product and in the split one.
@pytest.mark.parametrize("op,tokens,kernel,blocks", [
    ("linear", 65_536 * 32 - 5, "linear_bf16_bf16_wide", 65_536),
    ("grouped_linear", 65_536 * 16 - 5, "grouped_linear_fp32_fp32_split", 65_536),
    ("indexer_scores", 65_536 * 32 - 5, "indexer_scores_tile_plain", 65_536),
])  # fmt: skip
def test_millions_of_tokens_are_one_launch(gpu: EmulatedGpu, op: str, tokens: int, kernel: str, blocks: int) -> None:
    x = torch.zeros(tokens, 1, 1, dtype=torch.float32 if op == "grouped_linear" else torch.bfloat16)
    args: tuple[Any, ...] = (x, torch.ones(1, 1), None)
    if op == "linear":
        args = (x[:, 0], torch.ones(1, 1, dtype=x.dtype), x.dtype)
    elif op == "indexer_scores":
        args = (x, x[:, 0], x[:1], int32(0)[None], int32(0, tokens), int32(0), 4, False)
    assert [launch[:4] for launch in gpu.dry_run(op, args)] == [[kernel, str(blocks), "1", "1"]]


def test_more_blocks_than_a_grid_holds_are_refused_before_the_driver(gpu: EmulatedGpu) -> None:
    args = (torch.zeros(1, 1), torch.zeros(8 * 65_535 + 1, 1), torch.float32)
    with pytest.raises(RuntimeError, match=r"linear_fp32_fp32 <<<\(1, 65536, 1\), .*more blocks than a launch"):
        gpu.dry_run("linear", args)


OVERLAP = """
import sys
from pathlib import Path
from v4npu.testing.cuda import GPUS, EmulatedGpu
gpu = EmulatedGpu(Path(sys.argv[1]), GPUS[sys.argv[2]])
gpu.run("rms_norm", (x, None, 1e-6))
print(gpu.launches()[0][6])
"""


@pytest.mark.parametrize("name,asked,overlaps", [
    ("A100", "", "0"), ("H100", "", "1"), ("H100", "0", "0"), ("B200", "", "1"),
])  # fmt: skip
def test_from_sm_90_on_a_launch_may_overlap_the_one_before(
    gpu: EmulatedGpu, name: str, asked: str, overlaps: str
) -> None:
    assert in_new_process(OVERLAP, str(gpu.cache), name, V4NPU_CUDA_OVERLAP=asked).split() == [overlaps]


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: there is no cuda.h")
def test_what_is_said_of_cuda_h_is_so(tmp_path: Path) -> None:
    source, include = Path(__file__).parent / "driver_abi.cpp", ROOT / "backends/cuda"
    command = [NVCC or "", "-std=c++20", f"-I{include}", "-c", str(source), "-o", str(tmp_path / "abi.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("op", kernel_sources())
def test_what_a_kernel_does_not_take_is_the_references(gpu: EmulatedGpu, op: str) -> None:
    args = sized(op, 3, 64, torch.float64)
    got = gpu.run(op, args)
    assert not gpu.launches()
    want = getattr(torch.ops.v4npu, op)(*args)
    for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
        assert torch.equal(g.view(torch.uint8), w.view(torch.uint8))


def test_refusals_come_before_the_device(gpu: EmulatedGpu) -> None:
    with pytest.raises(ValueError, match=r"v4npu\.rms_norm: weight must be floating point \[n\]"):
        gpu.run("rms_norm", (torch.ones(2, 8), torch.ones(7), 1e-6))


# A thread that torch has bound to no device has no context, and a capture forbids what loading does.
CAPTURE = """
import sys, threading
from pathlib import Path
from v4npu.testing.cuda import EmulatedGpu
gpu = EmulatedGpu(Path(sys.argv[1]))
def run():
    print(torch.equal(gpu.run("rms_norm", (x, None, 1e-6))[0], torch.ops.v4npu.rms_norm(x, None, 1e-6)))
gpu._driver.emulation_capture(1)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def test_a_kernel_is_first_launched_inside_a_capture_by_a_new_thread(gpu: EmulatedGpu) -> None:
    assert in_new_process(CAPTURE, str(gpu.cache)) == "True\n"


def test_more_choices_of_a_token_than_fit_are_the_references(gpu: EmulatedGpu) -> None:
    table = torch.arange(70).repeat(4, 1)
    args = (torch.ones(2, 8), torch.ones(70, 8), table, torch.tensor([3, 1]), 1.0)
    got = gpu.run("hash_gate", args)
    assert not gpu.launches() and torch.equal(got[0], torch.ops.v4npu.hash_gate(*args)[0])


# A torch with CUDA has loaded its library before, and has no stream where there is no device.
BESIDE = """
import ctypes, sys
from pathlib import Path
from v4npu.testing.cuda import RUNTIME, STREAM, EmulatedGpu, _library
refuses, cache = STREAM.replace("return 0", "return 1"), Path(sys.argv[1])
torchs = ctypes.CDLL(str(_library(refuses, RUNTIME, ("-Wl,-soname,libtorch_cuda.so",), cache)))
torch.version.cuda = "13.0"
gpu = EmulatedGpu(cache)
print(torch.equal(gpu.run("rms_norm", (x, None, 1e-6))[0], torch.ops.v4npu.rms_norm(x, None, 1e-6)))
"""


def test_the_emulated_gpu_has_a_stream_beside_a_torch_with_cuda(gpu: EmulatedGpu) -> None:
    assert in_new_process(BESIDE, str(gpu.cache)) == "True\n"
