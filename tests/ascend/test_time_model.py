"""The modelled time: published peaks come out of it, pipes overlap, traces are sound. None of it is a measurement."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from test_cube import matmul
from test_kernels import ARCHS, normal
from test_mixed import mixed


# Cores x 8192 FLOP x clock: 364 TFLOP/s of the 910B1 and of a die of the 910C; "410 TFLOPS is 95 % of peak" (FlashMLA)
# at 32 cores of 1.65 GHz; 531 of 36 at 1.8. What a vendor table gives LoadData: bytes a cycle to L0A, to L0B.
@pytest.mark.parametrize("sku,cores,peak,to_l0a,to_l0b", [
    ("ascend910b1", 24, 364e12, 256, 128), ("ascend910_9391", 24, 364e12, 256, 128),
    ("ascend950pr_9589", 32, 432.5e12, 256, 256), ("ascend950dt_9581", 32, 432.5e12, 256, 256),
    ("ascend950pr_9599", 36, 531e12, 256, 256), ("ascend950dt_9591", 36, 531e12, 256, 256),
])  # fmt: skip
def test_peak_of_the_cube_cores_and_their_loads(cache, sku, cores, peak, to_l0a, to_l0b):
    n = 128
    busy = matmul(cache, sku, m=n, n=n, k=n)[2].modelled_busy_us
    assert 2 * n**3 / (busy["M"] * 1e-6) * cores == pytest.approx(peak, rel=2e-3)
    loads = n**2 * 2 * n / 64 * (1 / to_l0a + 1 / to_l0b)  # every tile of 64 x 64 once for each tile of the other
    assert busy["MTE1"] / busy["M"] == pytest.approx(loads / (n**3 / 16**3))


@pytest.mark.parametrize("sku,cores,rate", [
    ("ascend910b1", 48, 1.42e12), ("ascend950pr_9589", 64, 1.64e12), ("ascend950dt_9581", 64, 4.2e12),
    ("ascend950pr_9599", 72, 1.6e12), ("ascend950dt_9591", 72, 4.0e12),
])  # fmt: skip
def test_bandwidth_when_every_vector_core_copies(emulated, sku, cores, rate):
    x = normal(8 * cores, 4096, dtype=torch.bfloat16)
    ops = emulated(sku, cores)
    ops.rms_norm(x, None, 1e-6)
    moved = 2 * x.numel() * x.element_size()
    assert 0.7 * rate < moved / (ops.report.modelled_us * 1e-6) <= 1.01 * rate


@pytest.mark.parametrize("sku", ARCHS)
def test_work_is_spread_over_the_cores_and_repeated_beyond_them(cache, sku):
    cores = {"ascend910b1": 24, "ascend950dt_9591": 36}[sku]

    def time(tiles):
        return matmul(cache, sku, num_blocks=tiles, m=64 * tiles, n=64, k=64)[2].modelled_us

    assert time(cores) == time(1)
    assert time(cores + 1) == pytest.approx(2 * time(1))


@pytest.mark.parametrize("sku", ARCHS)
def test_trace(cache, sku):
    report = mixed(cache, sku, steps=6, trace=True)[2]
    trace = json.loads(report.trace)
    assert "modelled" in trace["otherData"]["times"]
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert {"AIC M", "AIC FIX", "AIV0 V", "AIV1 MTE3"} <= set(names.values())
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(spans) == report.instructions
    for thread in names:
        mine = [e for e in spans if e["tid"] == thread]
        for earlier, later in pairwise(mine):
            assert later["ts"] >= earlier["ts"] + earlier["dur"] - 2e-6  # printed to 1e-6 us

    def of(name, thread):
        return [e for e in spans if e["name"] == name and names[e["tid"]] == thread]

    for product, clip in zip(of("Fixpipe", "AIC FIX"), of("Maxs", "AIV1 V"), strict=True):
        assert clip["ts"] >= product["ts"] + product["dur"] - 2e-6
    # the cube core is at the next step while the vector cores clip this one
    assert of("Mmad", "AIC M")[1]["ts"] < of("Maxs", "AIV0 V")[0]["ts"]
    assert report.modelled_us < sum(report.modelled_busy_us.values())


def test_no_time_without_a_source(cache):
    report = matmul(cache, "ascend910b3")[2]
    assert report.modelled_us is None and not any(report.modelled_busy_us.values())
