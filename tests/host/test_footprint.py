"""Parameters, cache bytes and FLOPs against figures worked out by hand from the published configurations and report."""

import json
import math
from dataclasses import replace

import pytest

from v4npu import footprint as fp
from v4npu.checkpoint_names import layout
from v4npu.loader import NANO
from v4npu.model.config import Config

N = 1_048_576
PRO, FLASH = Config.preset("pro"), Config.preset("flash")


@pytest.mark.parametrize(
    "config, billions",
    [(PRO, (1572.99, 1598.83, 47.92, 49.78)), (FLASH, (284.33, 290.94, 12.74, 13.80))],
    ids=["pro", "flash"],
)
def test_parameters(config, billions):
    p = fp.parameters(config)
    counts = (p.total, p.total_with_mtp, p.active, p.active_with_embeddings)
    assert tuple(round(count / 1e9, 2) for count in counts) == billions


@pytest.mark.parametrize("config", [PRO, FLASH, Config.from_file(NANO)], ids=["pro", "flash", "nano"])
def test_every_tensor_of_the_checkpoint_is_counted(config):
    p = fp.parameters(config)
    stored = (math.prod(spec.shape) for spec in layout(config).values() if spec.kind != "ids")
    assert p.total_with_mtp + p.vectors == sum(stored)


@pytest.mark.parametrize(
    "config, by_kind, total, gib",
    [
        (PRO, (4_592_762_880, 534_773_760, 148_307_968, 4_559_872), 5_280_404_480, (4.918, 5.387, 9.625)),
        (FLASH, (3_214_934_016, 374_341_632, 95_682_560, 3_214_336), 3_688_172_544, (3.435, 3.763, 6.724)),
    ],
    ids=["pro", "flash"],
)
def test_kv_bytes(config, by_kind, total, gib):
    kv = fp.kv_bytes(config, N)
    assert (kv.csa, kv.indexer, kv.hca, kv.window) == by_kind
    assert kv.total == total
    assert tuple(round(fp.kv_bytes(config, N, f).total / 2**30, 3) for f in fp.KV_FORMATS) == gib


def test_row_bytes():
    assert [fp.row_bytes(PRO, f) for f in fp.KV_FORMATS] == [(584, 68), (584, 132), (1024, 256)]


def test_v32():
    assert fp.v32_kv_bytes(N) == 50_402_951_168
    assert round(fp.v32_kv_bytes(N) / 2**30, 2) == 46.94


@pytest.mark.parametrize("config, v32, gqa", [(PRO, 10.48, 2.02), (FLASH, 7.32, 2.00)], ids=["pro", "flash"])
def test_kv_ratios(config, v32, gqa):
    ratio = fp.footprint(config, N)["kv_ratio"]
    assert (round(100 * ratio["v3.2"], 2), round(100 * ratio["gqa8"], 2)) == (v32, gqa)


@pytest.mark.parametrize(
    "work, printed",
    [
        (fp.flops(PRO, N), ("97.70", "9.060", "67.612", "0.000", "128.85", "303.22", "315.47", "319.41")),
        (fp.flops(FLASH, N), ("26.54", "1.762", "21.810", "0.034", "90.19", "140.34", "118.84", "120.68")),
        (fp.v32_flops(N), ("74.95", "34.80", "0.0", "0.0", "1047.97", "1157.72", "1192.52", "1194.64")),
    ],
    ids=["pro", "flash", "v3.2"],
)
def test_flops(work, printed):
    values = (work.linear, work.core_csa, work.core_hca, work.core_window, work.indexer)
    values += (work.raw, work.fp8_equivalent, work.fp8_equivalent_strict)
    digits = [len(text.split(".")[1]) for text in printed]
    assert tuple(f"{v / 1e9:.{n}f}" for v, n in zip(values, digits, strict=True)) == printed


@pytest.mark.parametrize(
    "config, percent", [(PRO, (26.2, 26.5, 26.7)), (FLASH, (12.1, 10.0, 10.1))], ids=["pro", "flash"]
)
def test_flops_ratios(config, percent):
    ratio = fp.footprint(config, N)["flops_ratio"].values()
    assert tuple(round(100 * r, 1) for r in ratio) == percent


def test_short_contexts_and_any_config():
    small = replace(PRO, hidden_size=64, num_hidden_layers=2, compress_ratios=(0, 4), num_hash_layers=1)
    report = fp.footprint(small, 3)
    assert report["kv_bytes"]["csa"] == 0 and report["kv_bytes"]["window"] == 2 * 3 * 584
    assert json.loads(json.dumps(report)) == report
    assert fp.flops(small, 400).core_csa > fp.flops(small, 399).core_csa


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"context must be .* got 0"):
        fp.footprint(PRO, 0)
    with pytest.raises(ValueError, match=r"kv_format must be .* got 'int4'"):
        fp.kv_bytes(PRO, 8, "int4")
