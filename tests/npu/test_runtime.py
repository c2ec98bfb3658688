"""The emulated runtime under the real torch-npu: device, memory, copies, streams, events, named errors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from v4npu import device


def test_one_device_with_the_chosen_name() -> None:
    assert torch.npu.device_count() == 1
    assert torch.npu.get_device_name(0).lower() == os.environ["V4NPU_EMULATE_SOC"]
    assert device.resolve("npu:0") == torch.device("npu:0")
    assert str(device.resolve()) == "npu:0"


@pytest.mark.parametrize(
    ("soc", "name", "gigabytes"),
    [("ascend910b1", "Ascend910B1", 64), ("ascend910_9391", "Ascend910_9391", 64),
     ("ascend950pr_9589", "Ascend950PR_9589", 128), ("ascend950dt_9591", "Ascend950DT_9591", 144)],
)  # fmt: skip
def test_every_chip_says_its_name_and_memory_and_adds(soc: str, name: str, gigabytes: int) -> None:
    script = (
        "import torch; x = torch.arange(5, device='npu');"
        "p = torch.npu.get_device_properties(0);"
        "print(torch.npu.get_device_name(0), p.total_memory >> 30, (x + x).tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "V4NPU_EMULATE_SOC": soc}, capture_output=True, text=True
    )
    assert run.stdout == f"{name} {gigabytes} [0, 2, 4, 6, 8]\n", run.stderr


def test_an_unknown_chip_is_an_error() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import torch; torch.zeros(1, device='npu')"],
        env={**os.environ, "V4NPU_EMULATE_SOC": "ascend310"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0 and "V4NPU_EMULATE_SOC" in run.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8,
                                   torch.uint8, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn])  # fmt: skip
def test_copies_keep_every_bit(dtype: torch.dtype) -> None:
    bits = torch.randint(0, 256 if dtype != torch.bool else 2, (7 * 8 * 24,), dtype=torch.uint8)
    x = bits.view(dtype).reshape(7, -1)
    moved = x.npu()
    assert moved.device.type == "npu" and moved.dtype == dtype
    assert torch.equal(moved.cpu().view(torch.uint8).flatten(), bits)
    assert torch.equal(moved.clone().t().cpu().contiguous().view(torch.uint8), x.t().contiguous().view(torch.uint8))


def test_copies_between_strided_views_and_from_pinned_memory() -> None:
    x = torch.randn(6, 8, 10)
    y = torch.zeros(10, 8, 12, device="npu")
    y.transpose(0, 2)[:6, :, ::2].copy_(x[:, :, :5])
    expected = torch.zeros(10, 8, 12)
    expected.transpose(0, 2)[:6, :, ::2].copy_(x[:, :, :5])
    assert torch.equal(y.cpu(), expected)
    pinned = x.pin_memory()
    z = pinned.to("npu", non_blocking=True)
    back = torch.empty_like(x).pin_memory()
    back.copy_(z, non_blocking=True)
    torch.npu.synchronize()
    assert torch.equal(back, x)


def test_new_memory_holds_no_lucky_zeros() -> None:
    torch.npu.empty_cache()
    assert torch.empty(1 << 20, device="npu").isnan().all().item()


def test_memory_is_counted_and_ends() -> None:
    free, total = torch.npu.mem_get_info()
    kept = torch.empty(1 << 26, dtype=torch.uint8, device="npu")
    assert torch.npu.mem_get_info()[0] <= free and kept.numel() == 1 << 26
    with pytest.raises(RuntimeError, match="out of memory"):
        torch.empty(total + 1, dtype=torch.uint8, device="npu")
    del kept
    torch.npu.empty_cache()
    assert torch.npu.mem_get_info()[0] >= free


def test_a_stream_runs_in_order_and_others_only_after_its_events() -> None:
    first, second = torch.npu.Stream(), torch.npu.Stream()
    event = torch.npu.Event()
    x = torch.zeros(1 << 16, device="npu")
    torch.npu.synchronize()
    with torch.npu.stream(first):
        for _ in range(50):
            x += 1
        event.record()
    with torch.npu.stream(second):
        event.wait()
        y = x * 2
    second.synchronize()
    assert event.query() and (y == 100).all().item()


def test_work_is_asynchronous_and_events_tell_when_it_is_done() -> None:
    x = torch.eye(384).npu()
    begin, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    begin.record()
    for _ in range(20):
        x = x @ x
    end.record()
    assert not end.query()
    end.synchronize()
    assert end.query() and begin.elapsed_time(end) > 0


def test_a_function_that_is_not_implemented_says_its_name() -> None:
    with pytest.raises(RuntimeError, match="emulated Ascend runtime: aclnnGroupNorm is not implemented"):
        torch.nn.functional.group_norm(torch.ones(2, 4, 3, device="npu"), 2)
        torch.npu.synchronize()
    with pytest.raises(RuntimeError, match=r"aclnn\w+ is not implemented"):
        torch.conv2d(torch.ones(1, 1, 4, 4, device="npu"), torch.ones(1, 1, 2, 2, device="npu"))
        torch.npu.synchronize()


def test_an_index_out_of_range_is_reported_by_the_next_synchronisation() -> None:
    x = torch.ones(4, device="npu")
    x.index_select(0, torch.tensor([9], device="npu"))
    with pytest.raises(RuntimeError, match="aclnnIndexSelect: index 9 is out of range"):
        torch.npu.synchronize()
    assert (x + x).tolist() == [2, 2, 2, 2]  # reported once, then the stream goes on


def test_the_device_accepts_only_its_own_memory() -> None:
    acl = ctypes.CDLL("libascendcl.so")
    acl.aclGetRecentErrMsg.restype = ctypes.c_char_p
    here, to_device = ctypes.create_string_buffer(64), 1
    status = acl.aclrtMemcpy(here, ctypes.c_size_t(64), here, ctypes.c_size_t(64), to_device)
    assert status != 0 and b"destination is not memory of the device" in acl.aclGetRecentErrMsg()
    x = torch.zeros(8, device="npu")
    size = ctypes.c_size_t(1 << 40)
    status = acl.aclrtMemcpy(ctypes.c_void_p(x.data_ptr()), size, here, size, to_device)
    assert status != 0 and b"behind its allocation" in acl.aclGetRecentErrMsg()
