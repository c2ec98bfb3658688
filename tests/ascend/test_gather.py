"""Where a gather may begin: its offset is that of a value on dav_2201, and of a block of 32 bytes on dav_3510."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from test_kernels import ARCHS, normal

from v4npu.emulated_kernels import Source, skus
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

TEXT = Path(__file__).with_name("gather.asc").read_text()


@pytest.fixture(scope="module")
def kernels(cache):
    built = functools.cache(lambda arch: Kernels([Source("gather.asc", TEXT)], arch, cache))
    return lambda sku: built(skus()[sku])


@pytest.mark.parametrize("base", [0, 4, 32, 36, 256])
@pytest.mark.parametrize("sku", ARCHS)
def test_a_gather_from_the_middle_of_a_block(kernels, sku, base):
    x, out = normal(128), torch.full((64,), torch.nan)
    launch = functools.partial(kernels(sku).launch, "gathered", sku, 1, In(x), Out(out), base)
    if skus()[sku] == 3510 and base % 32 != 0:
        with pytest.raises(KernelFault, match=r"Gather at gather\.asc:\d+ .*must begin at a multiple of 32 bytes"):
            launch()
    else:
        launch()
        assert torch.equal(out, x[base // 4 :][:64])
