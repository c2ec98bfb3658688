"""What the emulated GPU finds wrong with kernels, and that it finds nothing wrong with right ones."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from v4npu.testing.ascend import KernelFault
from v4npu.testing.cuda import READ, WRITE, EmulatedGpu

PATH = Path(__file__).with_name("faults.cu")


class Params(ctypes.Structure):
    _fields_ = (("x", ctypes.c_void_p), ("out", ctypes.c_void_p), ("n", ctypes.c_int64))


def launch(gpu: EmulatedGpu, kernel: str, n: int = 32, threads: int = 64, **how: object) -> torch.Tensor:
    x, out = torch.arange(64.0), torch.full((64,), torch.nan)
    file = gpu.compile(PATH.read_text(), PATH)
    gpu.launch(
        file, kernel, Params(x.data_ptr(), out.data_ptr(), n), {"x": (x, READ), "out": (out, WRITE)}, threads=threads,
        **how,
    )  # fmt: skip
    return out


PAIR = {"grid": (1, 2, 1)}
FAULTS = {
    # kernel: (arguments, what is said)
    "reads_behind": ({"n": 64}, r"illegal address: reads at faults\.cu:\d+ 0 bytes behind the end of x, thread 0 of"),
    "writes_behind": ({"n": 40}, r"illegal address: writes at .* 0 bytes behind the end of out, thread 24 of block"),
    "writes_an_input": ({}, r"writes to x at faults\.cu:\d+, which is an input"),
    "reads_an_output": ({}, r"reads byte 0 of out at faults\.cu:\d+, which nothing has written"),
    "misaligned": ({}, r"misaligned address: 16 bytes"),
    "reads_unwritten_shared_memory": ({}, r"reads byte 0 of shared memory at .*, which nothing has written"),
    "hands_on_without_barrier": (
        {"threads": 64},
        r"race: reads byte \d+ of shared memory at faults\.cu:\d+, which thread \d+ at faults\.cu:\d+ writes with no",
    ),
    "hands_on_with_barriers_of_warps": ({"threads": 64}, r"race: reads byte \d+ of shared memory"),
    "overwrites_what_is_read": ({"threads": 64}, r"race: .* byte \d+ of shared memory .* thread \d+ at .* (rea|wri)"),
    "blocks_write_one_place": ({"grid": (2, 1, 1)}, r"race: writes byte 0 of out .*, which thread 0 of another block"),
    "barrier_of_some": ({"threads": 64}, r"divergence: thread 0 waits at sync_block .*, thread 6\d has ended"),
    "two_barriers": ({"threads": 64}, r"divergence: thread 0 waits at sync_block .*, thread 32 waits at sync_block"),
    "shuffle_of_some": ({}, r"divergence: thread 0 waits at shuffle_xor \(faults\.cu:\d+\), thread 7 has ended"),
    "copies_without_waiting": ({}, r"race: byte 0 of shared memory is touched at .* before its copy is waited for"),
    "copies_without_barrier": ({}, r"race: reads byte 4 of shared memory .*, which thread 0"),
    "waits_for_what_is_not_committed": (
        {},
        r"race: byte 0 of shared memory is touched at .* before its copy is waited",
    ),
    "copies_over_what_is_read": (
        {},
        r"race: .* byte \d+ of shared memory .* thread \d+ at .* (rea|wri)",
    ),
    "copies_to_a_crooked_place": ({}, r"misaligned address: 16 bytes at"),
    "copies": ({"shared_bytes": 49 << 10}, r"copies: 50176 bytes of shared memory, 49152 allowed"),
    "hands_on_in_a_cluster": ({"grid": (1, 3, 1)}, r"clusters of 2 in a grid of 3 blocks \(y\)"),
    "reads_a_block_without_barrier": (PAIR, r"race: reads byte 0 of shared .* of another block at .*writes"),
    "ends_while_it_is_read": (
        PAIR,
        r"race: block \(0, \d, 0\) may have ended when another block reads its shared memory",
    ),
    "overwrites_what_a_block_reads": (PAIR, r"race: writes byte 0 of shared .*another block.* reads"),
    "reads_a_block_that_is_not": (PAIR, r"read_shared: no block 2 in the cluster"),
    "barrier_of_one_block": (PAIR, r"divergence: thread 0 of block \(0, 0, 0\) waits at sync_cluster .*ended"),
    "hands_on": ({"threads": 32}, r"hands_on is compiled for 64 threads, not 32"),
}


@pytest.mark.parametrize("kernel", FAULTS)
def test_fault(gpu: EmulatedGpu, kernel: str) -> None:
    how, text = FAULTS[kernel]
    with pytest.raises(KernelFault, match=text):
        launch(gpu, kernel, **{"threads": 32, **how})


def test_right_kernels_pass(gpu: EmulatedGpu) -> None:
    x = torch.arange(64.0)
    assert torch.equal(launch(gpu, "copies", threads=32)[:32], x[:32])
    assert torch.equal(launch(gpu, "hands_on")[32:], x[:32])
    assert torch.equal(launch(gpu, "copies_in_the_background", threads=32)[:32], x[:32])
    assert torch.equal(launch(gpu, "hands_on_in_a_cluster", threads=32, **PAIR), x.roll(32))
    assert launch(gpu, "blocks_write_one_place", threads=32)[0] == 0


def test_a_fault_leaves_the_device_usable(gpu: EmulatedGpu) -> None:
    with pytest.raises(KernelFault):
        launch(gpu, "reads_behind", n=64, threads=32)
    assert torch.equal(launch(gpu, "copies", threads=32)[:32], torch.arange(32.0))


def test_clusters_begin_with_sm_90(gpu: EmulatedGpu) -> None:
    gpu._driver.emulation_device(8, 9, 128, 99 << 10)
    try:
        with pytest.raises(KernelFault, match="hands_on_in_a_cluster has clusters, which sm_90 begins with"):
            launch(gpu, "hands_on_in_a_cluster", threads=32, grid=(1, 2, 1))
    finally:
        gpu._driver.emulation_device(9, 0, 132, 227 << 10)
