"""Blocks of one size with reference counts, in memory that is reserved once and committed as it is touched."""

from __future__ import annotations

import errno
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from v4npu import _C
from v4npu.shards import large_page

MAP_NORESERVE = 0x4000  # Linux: address space without a claim on memory; Python names it from 3.13 on
POISON = 0xFF  # NaN in bf16, fp32, fp64, e4m3 and ue8m0 alike


class CacheFull(MemoryError):
    """A cache's byte limit, or that of the process's address space, is reached; nothing was changed."""


@dataclass
class Budget:
    """Bytes that the pools of a store may hold together."""

    limit: int
    used: int = 0


def reserve(nbytes: int, device: torch.device) -> tuple[Tensor, mmap.mmap | None]:
    """uint8 [nbytes]. On a Linux host nothing is committed before it is touched, and the mapping can give it back;
    elsewhere all of it is allocated.

    Rows that an index picks lie anywhere, and to find those of a long context through small pages takes longer than to
    read them. So it asks for large pages, behind as many bytes as one has: a short cache is to take little.
    """
    if device.type == "cpu" and hasattr(mmap, "MAP_ANONYMOUS") and nbytes:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            mapping = mmap.mmap(-1, nbytes, flags=flags)
            memory = torch.frombuffer(mapping, dtype=torch.uint8)
            _C.advise_large_pages(memory.data_ptr() + large_page(), max(nbytes - large_page(), 0))
            return memory, mapping
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENOMEM:
                raise
            raise CacheFull(
                f"v4npu: {nbytes:,} bytes of address space for a cache are not there (ulimit -v); fewer max_tokens take"
                " fewer"
            ) from None
    return torch.empty(nbytes, dtype=torch.uint8, device=device), None


class Pool:
    """An array [capacity, block_bytes] of blocks, each free or held by one or more owners."""

    def __init__(
        self, block_bytes: int, blocks: int, device: torch.device, budget: Budget, poison: bool = False
    ) -> None:
        capacity = blocks
        if device.type == "cpu":  # address space costs nothing: as much of it as the machine has memory
            capacity = -(-min(budget.limit, _memory()) // block_bytes) if block_bytes else 0
        self.block_bytes, self.budget, self.poison = block_bytes, budget, poison
        self.bounded = device.type != "cpu"  # has no more room than was asked for
        try:
            memory, self._mapping = reserve(capacity * block_bytes, device)
        except CacheFull:  # address space is limited here
            self.bounded, capacity = True, blocks
            memory, self._mapping = reserve(capacity * block_bytes, device)
        self.bytes = memory.view(capacity, block_bytes)
        self.refs: list[int] = []  # of the blocks used so far; 0 = free
        self.free: list[int] = []

    @property
    def held(self) -> int:
        """Blocks in use."""
        return len(self.refs) - len(self.free)

    def room(self) -> int:
        """Blocks that can still be allocated, by this pool's capacity."""
        return self.bytes.shape[0] - self.held

    def grow(self) -> None:
        """Twice the capacity, in other memory: pages are to be made anew."""
        used, old = len(self.refs), self.bytes
        memory, self._mapping = reserve(2 * old.numel(), old.device)
        self.bytes = memory.view(2 * len(old), self.block_bytes)
        self.bytes[:used] = old[:used]

    def clear(self) -> None:
        """Gives the memory of all blocks back, if nobody holds one."""
        if self.held or not self.refs:
            return
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)
        self.refs, self.free = [], []

    def allocate(self) -> int:
        """A block of undefined content."""
        if self.budget.used + self.block_bytes > self.budget.limit or not self.room():
            limit = min(self.budget.limit, self.budget.used + self.room() * self.block_bytes)
            raise CacheFull(f"v4npu: the cache's limit of {limit:,} bytes is reached")
        self.budget.used += self.block_bytes
        if self.free:
            block = self.free.pop()
            self.refs[block] = 1
        else:
            block = len(self.refs)
            self.refs.append(1)
        if self.poison:
            self.bytes[block].fill_(POISON)
        return block

    def retain(self, block: int) -> int:
        """One more owner."""
        self.refs[block] += 1
        return block

    def release(self, block: int) -> None:
        """One owner less; the last one frees the block."""
        self.refs[block] -= 1
        if self.refs[block] == 0:
            self.free.append(block)
            self.budget.used -= self.block_bytes

    def shared(self, block: int) -> bool:
        return self.refs[block] > 1

    def writable(self, block: int) -> int:
        """The block itself if its caller is the only owner, else a copy in its place."""
        if not self.shared(block):
            return block
        copy = self.allocate()
        self.bytes[copy] = self.bytes[block]
        self.release(block)
        return copy

    def page(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """[capacity, *shape]: the slice at byte `offset` of every block, as `dtype`."""
        flat = self.bytes.view(-1).view(dtype)
        size = dtype.itemsize
        inner = [1]
        for n in reversed(shape[1:]):
            inner.insert(0, inner[0] * n)
        return flat.as_strided((self.bytes.shape[0], *shape), (self.block_bytes // size, *inner), offset // size)


def _memory() -> int:
    return next(caps.memory_bytes for caps in _C.caps() if caps.kind == "cpu") or 1 << 36
