"""Memory of large results (csrc/runtime/heap.h): used again, never by two at once, given back to the system."""

from __future__ import annotations

import gc
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from v4npu import _C, ops

MB = 1 << 20
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="blocks are mapped on Linux alone")


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    gc.collect()
    _C.release_free_heap()


def result(mb: int, value: float = 1.0) -> Tensor:
    """What an operator makes of so many MB."""
    x = torch.full((mb * MB // 8192, 4096), value, dtype=torch.bfloat16)
    return ops.rms_norm(x, torch.full((4096,), value, dtype=torch.bfloat16), 0.0)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("mb, later", [(32, 32), (40, 36)])
def test_memory_of_a_large_result_is_that_of_the_next(mb: int, later: int) -> None:
    first, other = result(mb), result(mb)
    at = first.data_ptr()
    assert abs(other.data_ptr() - at) >= mb * MB
    del first
    third = result(later, 3.0)
    assert third.data_ptr() == at
    assert torch.equal(other, torch.ones_like(other)) and torch.equal(third, torch.full_like(third, 3.0))


def test_a_much_smaller_result_takes_none_of_it() -> None:
    first = result(128)
    at = first.data_ptr()
    del first
    assert result(64).data_ptr() != at


def test_views_keep_it() -> None:
    whole = result(64, 2.0)
    at, tail = whole.data_ptr(), whole[-1]
    del whole
    assert result(64, 5.0).data_ptr() != at
    assert torch.equal(tail, torch.full_like(tail, 2.0))


def test_what_is_kept_is_bounded_and_given_back() -> None:
    x = torch.ones(300 * MB // 8192, 4096, dtype=torch.bfloat16)
    weight = torch.ones(4096, dtype=torch.bfloat16)
    before = resident()
    made = [ops.rms_norm(x, weight, 0.0) for _ in range(5)]
    assert resident() - before > 1400 * MB
    made.clear()
    assert 800 * MB < resident() - before < 1100 * MB
    _C.release_free_heap()
    assert resident() - before < 100 * MB


def test_threads_do_not_share_it() -> None:
    def rounds(value: int) -> bool:
        return all(bool((result(32 + 2 * (i % 3), value) == value).all()) for i in range(6))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(rounds, range(1, 9)))
