"""What bench/cuda_device.py makes of the times that a device gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from v4npu.testing.cuda import script

script("bench/cuda_device.py")
import accelerator  # noqa: E402


@pytest.mark.parametrize("each,count", [(5.0, 20), (500.0, 20), (2_000.0, 5), (50_000.0, 1)])
def test_a_graph_has_as_many_calls_as_end_soon(each: float, count: int) -> None:
    class Counted(accelerator.Cpu):
        """Whose calls take `each` microseconds, and twice that cold."""

        calls = 0

        def times(self, call: Callable[[], Any], repeats: int, cold: bool) -> list[float]:
            found = []
            for _ in range(repeats):
                before = self.calls
                call()
                found.append((self.calls - before) * each * (2 if cold else 1))
            return found

    device = Counted()

    def call() -> None:
        device.calls += 1

    assert accelerator.medians(device, call, 3) == (each, 2 * each)
    assert device.calls == 1 + count + 3 * count + 3  # once, captured, replayed, cold
