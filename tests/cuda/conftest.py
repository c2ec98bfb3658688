"""One emulated GPU for the process; what is compiled is kept between runs as long as no text changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from v4npu.testing.cuda import EmulatedGpu


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> EmulatedGpu:
    return EmulatedGpu(Path(request.config.cache.mkdir("cuda_emulation")))
