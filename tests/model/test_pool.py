"""The memory that a cache's blocks lie in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from v4npu.cache.pool import SMALL, reserve

CPU = torch.device("cpu")
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


def flags(address: int) -> set[str]:
    """The kernel's flags of the mapping that holds this address."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name == "VmFlags:" and here:
            return set(rest.split())
        if "-" in name:
            first, last = (int(end, 16) for end in name.split("-"))
            here = first <= address < last
    raise AssertionError(f"no mapping holds {address:#x}")


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this kernel has no transparent large pages")
def test_long_caches_ask_for_large_pages_and_short_ones_do_not() -> None:
    memory, mapping = reserve(64 << 20, CPU)
    assert mapping is not None
    begin = memory.data_ptr()
    assert "hg" not in flags(begin)
    assert "hg" not in flags(begin + SMALL - 1)
    assert "hg" in flags(begin + SMALL + (1 << 16))
    assert "hg" in flags(begin + memory.numel() - 1)


@pytest.mark.parametrize("nbytes", [1, 4096, SMALL, SMALL + 1])
def test_short_memory_is_all_there(nbytes: int) -> None:
    memory, _ = reserve(nbytes, CPU)
    assert memory.numel() == nbytes
    assert int(memory.fill_(7).sum()) == 7 * nbytes
