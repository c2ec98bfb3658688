"""The picture of a launch: every pipe that worked has a lane, and the picture says that its times are modelled."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from test_kernels import ARCHS, normal

from v4npu.testing.ascend import In, Out
from v4npu.testing.ascend_timeline import LABEL, lanes, write_timeline


@pytest.fixture(scope="module")
def report(emulated):
    kernels, x, out = emulated(ARCHS[0]).kernels, normal(4, 5000), torch.empty(4, 5000)
    return kernels.launch("rms_norm_fp32", ARCHS[0], 2, In(x), In(x[0]), Out(out), 4, 5000, 1e-6, trace=True)


def test_lanes_hold_what_the_report_says(report):
    found, pipes = lanes(report.trace), ("V", "MTE2", "MTE3")
    assert [lane.name for lane in found] == [f"block {b}  AIV0 {pipe}" for b in (0, 1) for pipe in pipes]
    for pipe in pipes:
        spans = [s for lane in found if lane.name.endswith(f" {pipe}") for some in lane.spans.values() for s in some]
        assert sum(duration for _, duration in spans) == pytest.approx(report.modelled_busy_us[pipe], rel=1e-2)


def test_picture_beside_the_trace(report, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra bench")
    picture = write_timeline(report.trace, tmp_path / "rms_norm", "rms_norm")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"modelled" in picture.read_bytes() and "not measured" in LABEL
    assert json.loads((tmp_path / "rms_norm.json").read_text()) == json.loads(report.trace)
    assert "matplotlib.pyplot" not in sys.modules  # needs no display


def test_nothing_to_draw(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra bench")
    with pytest.raises(ValueError, match="holds no instruction that takes time"):
        write_timeline('{"traceEvents": []}', tmp_path / "empty", "")
    assert not list(tmp_path.iterdir())
