"""Prefilling piece by piece, the process grows by what the cache grows: nothing that was freed stays resident."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PREFILL = """
import json
import torch, v4npu

torch.set_num_threads(1)
model, pieces, length = v4npu.load("nano", dtype="float32", numerics="exact"), 6, 2048
cache = model.new_cache(1, pieces * length)
ids = torch.randint(0, 256, (1, pieces * length), generator=torch.Generator().manual_seed(0))

def held():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 - cache.nbytes

sizes = []
with torch.inference_mode():
    for piece in ids.split(length, dim=1):
        model(piece, cache=cache, last_only=True)
        sizes.append(held())
print(json.dumps(sizes))
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc for the resident memory")


def beside_the_cache() -> list[int]:
    """Bytes resident after each piece, less the cache's."""
    done = subprocess.run([sys.executable, "-c", PREFILL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes: list[int] = json.loads(done.stdout)
    return sizes


@linux
def test_resident_memory_grows_with_the_cache_alone() -> None:
    sizes = beside_the_cache()
    assert max(sizes[1:]) < sizes[0] + (64 << 20)  # the first piece loads what is used from then on
