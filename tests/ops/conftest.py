"""Fixtures of the operators' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from v4npu import _C


@pytest.fixture(params=_C.cpu_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine's CPU kernels, in turn."""
    _C.use_cpu_isa(request.param)
    yield request.param
    _C.use_cpu_isa("")
