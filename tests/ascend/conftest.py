"""Kernels compiled for the emulated chip, once per architecture and kept between runs as long as no text changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from v4npu.emulated_kernels import skus
from v4npu.testing.ascend import all_kernels
from v4npu.testing.ascend_ops import EmulatedOps


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.cache.mkdir("ascend"))


@pytest.fixture(scope="session")
def emulated() -> Callable[..., EmulatedOps]:
    """emulated(sku, num_blocks, ignored_wait): the operators on that SKU, of the library that `v4npu emulate` uses."""
    built = functools.cache(all_kernels)

    def on(sku: str, num_blocks: int = 3, ignored_wait: str = "") -> EmulatedOps:
        return EmulatedOps(built(skus()[sku]), sku, num_blocks, ignored_wait)

    return on
