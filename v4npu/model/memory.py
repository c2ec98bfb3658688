"""Where weights lie."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu import _C

ALIGNMENT = 64  # bytes


class WeightMemory:
    """Makes tensors for weights: on a CPU out of chunks on large pages, elsewhere one by one.

    Decoding reads every weight once for each token. Through pages of 4 KiB that takes longer, and an allocation of
    its own on large pages would need some room for every small weight.
    """

    CHUNK = 64 << 20  # bytes; what is left of one takes no memory until it is used

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._left = torch.empty(0, dtype=torch.uint8, device="cpu")

    def __reduce__(self) -> tuple[type[WeightMemory], tuple[torch.device]]:
        return WeightMemory, (self._device,)  # copies of a model do not take what is left here

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        if self._device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=self._device)
        size = torch.Size(shape).numel() * dtype.itemsize
        taken = -(-size // ALIGNMENT) * ALIGNMENT
        if taken > self._left.numel():
            self._left = torch.empty(max(taken, self.CHUNK), dtype=torch.uint8, device="cpu")
            _C.advise_large_pages(self._left.data_ptr(), self._left.numel())
        own, self._left = self._left[:size], self._left[taken:]
        # A storage and a version of its own: changing, saving or sending one weight concerns no other.
        at = own.storage_offset()
        return torch.empty(0, dtype=dtype, device="cpu").set_(own.untyped_storage()[at : at + size]).view(shape)
