"""One emulated GPU for the process; what is compiled is kept between runs as long as no text changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from v4npu import _C
from v4npu.testing.cuda import GPUS, EmulatedGpu


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> EmulatedGpu:
    return EmulatedGpu(Path(request.config.cache.mkdir("cuda_emulation")))


@pytest.fixture(params=GPUS)
def invented(request: pytest.FixtureRequest) -> _C.DeviceCaps:
    """What a plan is told of a GPU."""
    gpu, caps = GPUS[request.param], _C.DeviceCaps()
    caps.kind, caps.name, caps.num_cores = "cuda", f"sm_{gpu.major}{gpu.minor}", gpu.multiprocessors
    caps.shared_bytes = gpu.shared_bytes
    return caps
