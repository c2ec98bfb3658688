"""Kernels compiled for the emulated chip, once per architecture and kept between runs as long as no text changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from v4npu.kernel_cache import cache_folder, kernel_ops
from v4npu.testing.ascend import Kernels, Source, skus
from v4npu.testing.ascend_ops import EmulatedOps


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.cache.mkdir("ascend"))


@pytest.fixture(scope="session")
def emulated() -> Callable[..., EmulatedOps]:
    """emulated(sku, num_blocks, ignored_wait): the operators on that SKU, of the library that `v4npu emulate` uses."""
    built: dict[int, Kernels] = {}

    def on(sku: str, num_blocks: int = 3, ignored_wait: str = "") -> EmulatedOps:
        arch = skus()[sku]
        if arch not in built:
            built[arch] = Kernels([Source.of(op, arch) for op in kernel_ops()], arch, cache_folder(os.environ))
        return EmulatedOps(built[arch], sku, num_blocks, ignored_wait)

    return on
