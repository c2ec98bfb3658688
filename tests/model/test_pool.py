"""The memory that a cache's blocks lie in."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from v4npu.cache.pool import Budget, CacheFull, Pool, reserve
from v4npu.shards import large_page
from v4npu.testing import models

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
    small = large_page()
    memory, mapping = reserve(3 * small + (1 << 20), CPU)
    assert mapping is not None
    begin = memory.data_ptr()
    assert "hg" not in flags(begin)
    assert "hg" not in flags(begin + small - 1)
    assert "hg" in flags(begin + small + (1 << 16))
    assert "hg" in flags(begin + 3 * small)


@pytest.mark.parametrize("nbytes", [1, 4096, 2 << 20, (2 << 20) + 1])
def test_short_memory_is_all_there(nbytes: int) -> None:
    memory, _ = reserve(nbytes, CPU)
    assert memory.numel() == nbytes
    assert int(memory.fill_(7).sum()) == 7 * nbytes


def resident(begin: int, nbytes: int) -> int:
    """Bytes of memory behind the mappings that hold these addresses; the kernel joins neighbours."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if "-" in name:
            first, last = (int(end, 16) for end in name.split("-"))
            here = first < begin + nbytes and begin < last
        elif name == "Rss:" and here:
            found += int(rest.split()[0]) << 10
    return found


def test_what_is_cleared_is_given_back() -> None:
    """Large pages as well, of which blocks need not fill the last."""
    pool = Pool(300_000, 40, CPU, Budget(64 << 20), poison=True)
    gc.collect()
    begin, nbytes = pool.bytes.data_ptr(), pool.bytes.numel()
    before = resident(begin, nbytes)
    blocks = [pool.allocate() for _ in range(40)]
    assert resident(begin, nbytes) >= before + 40 * 300_000
    for block in blocks:
        pool.release(block)
    pool.clear()
    assert resident(begin, nbytes) == before


def test_growth_keeps_what_is_held() -> None:
    budget = Budget(4 * 64)
    pool = Pool(64, 4, CPU, budget)
    blocks = [pool.allocate() for _ in range(4)]
    for block in blocks:
        pool.bytes[block].fill_(block + 1)
    pool.grow()
    budget.limit *= 2
    assert pool.room() == 4
    blocks += [pool.allocate() for _ in range(4)]
    for block in blocks[4:]:
        pool.bytes[block].fill_(block + 1)
    assert sorted(blocks) == [*range(8)] and pool.page(8, (3,), torch.uint8)[:, 2].tolist() == [*range(1, 9)]


@pytest.mark.parametrize("nbytes", [1 << 60, 10**30])
def test_more_than_there_is_of_addresses(nbytes: int) -> None:
    with pytest.raises(CacheFull, match=f"{nbytes:,} bytes of address space .* fewer max_tokens"):
        reserve(nbytes, CPU)


@torch.inference_mode()
def test_pages_lie_in_the_pools_when_one_of_them_cannot_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.model(dtype="float32", numerics="exact")
    ids = torch.randint(0, 48, (1, 60), generator=torch.Generator().manual_seed(0))
    whole, cache = model(ids), model.new_cache(1, 60)
    model(ids[:, :50], cache=cache)

    def full() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(cache.store.state_pool, "grow", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.store.grow()
    assert torch.equal(model(ids[:, 50:], cache=cache.fork()), whole[:, 50:])  # which copies the blocks it writes to
