"""`v4npu bench block` and `model` at tiny sizes: rows that are timed, rows that are not, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import v4npu
from v4npu import ops
from v4npu.bench import model as whole
from v4npu.bench import timing
from v4npu.bench.block import RATIOS
from v4npu.testing.bench import CONFIGS, SMALL

TINY = replace(
    SMALL, vocab_size=300, hidden_size=128, num_hidden_layers=3, num_attention_heads=2, q_lora_rank=128, o_groups=1,
    o_lora_rank=128, n_routed_experts=9, num_experts_per_tok=2, moe_intermediate_size=128, compress_ratios=(0, 4, 128),
    index_n_heads=2, index_topk=64,
)  # fmt: skip
BLOCK = ("bench", "block", "--sizes", "small", "--threads", 1, "--repeats", 2)
MODEL = ("bench", "model", "--prompts", "0,9", "--new", 2, "--threads", 1, "--repeats", 1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(timing, "peaks", lambda *_: (1e10, 1e11))
    monkeypatch.setitem(CONFIGS, "small", TINY)
    monkeypatch.setattr(whole, "SMALL", TINY)


def read(text: str) -> list[dict]:
    first, *rows = map(json.loads, text.splitlines())
    assert first["kind"] == "environment"
    return rows


@pytest.mark.parametrize("kind", RATIOS)
def test_a_layer_and_each_operator_in_it(v4npu_command, tmp_path, kind):
    path = tmp_path / "rows"
    lengths = ("--contexts", "200,700", "--chunk", 40, "--chunk-contexts", "130")
    status, out, err = v4npu_command(*BLOCK, "--kind", kind, *lengths, "--json", path)
    assert status == 0, err
    rows = read(path.read_text())
    layers = [row for row in rows if row["op"] == "layer"]
    assert [(r["tokens"], r["context"], r["repeats"]) for r in layers] == [(1, 200, 2), (1, 700, 2), (40, 130, 1)]
    for row in layers:
        mine = [r for r in rows if (r["tokens"], r["context"]) == (row["tokens"], row["context"]) and r is not row]
        assert {f"{kind}_attention", "moe_experts", "qkv_prepare"} <= {r["op"] for r in mine}
        assert row["calls"] == sum(r["calls"] for r in mine) and 0 < row["limit"]
        assert all(r["status"] == "ok" and r["seconds"] < row["p95"] for r in mine)
    assert f"{kind} layer" in out


@pytest.mark.parametrize("op", ["swiglu", "compressor", "qkv_prepare"])
def test_a_layer_with_a_wrong_operator_gets_no_time(v4npu_command, monkeypatch, op):
    right = getattr(ops, op)

    def wrong(*args):
        out = right(*args)
        return tuple(o * 1.1 for o in out) if isinstance(out, tuple) else out * 1.1

    monkeypatch.setattr(ops, op, wrong)
    lengths = ("--contexts", "203", "--chunk", 0, "--json", "-")
    status, out, err = v4npu_command(*BLOCK, *lengths)
    rows = {row["op"]: row for row in read(out)}
    assert status == 1 and f"wrong: {op}" in err
    assert rows["layer"]["status"] == f"wrong: {op}" and not {"seconds", "limit"} & {*rows["layer"], *rows[op]}
    assert rows["moe_experts"]["status"] == "ok" and rows["moe_experts"]["seconds"] > 0
    assert ops.linear.__module__ == "v4npu.ops"


def test_a_random_model_and_transformers(v4npu_command, tmp_path):
    path = tmp_path / "rows"
    status, out, err = v4npu_command(*MODEL, "random", "--dtype", "float32", "--transformers", "--json", path)
    assert status == 0, err
    rows = read(path.read_text())
    named = [(r["engine"], r["phase"], r["tokens"], r["context"]) for r in rows]
    each = [("decode", 2, 0), ("prefill", 9, 0), ("decode", 2, 9)]
    assert named == [(engine, *row) for engine in ("v4npu", "transformers") for row in each]
    for row in rows:
        assert (row["status"], row["model"], row["dtype"], row["repeats"]) == ("ok", "random", "float32", 1)
        assert row["tokens_per_second"] == row["tokens"] / row["seconds"]
        assert row["engine"] in out
    assert {row["numerics"] for row in rows if row["engine"] == "transformers"} == {"exact"}


def test_a_model_without_and_with_enable(v4npu_command):
    status, out, err = v4npu_command(*MODEL, "random", "--enable", "--dtype", "float32", "--json", "-")
    assert status == 0, err
    rows = read(out)
    assert [row["engine"] for row in rows if row["phase"] == "prefill"] == ["transformers", "v4npu.enable"]


def test_a_model_that_differs_in_pieces_gets_no_time(v4npu_command, monkeypatch):
    right = v4npu.model.Model.forward

    def wrong(self, ids, **given):
        return right(self, ids, **given) * (1 + (ids.shape[1] == 1))

    monkeypatch.setattr(v4npu.model.Model, "forward", wrong)
    status, out, err = v4npu_command(*MODEL, "nano")
    assert status == 1 and "WRONG" in out and "in pieces, logits are" in err and "tokens/s" in out
    monkeypatch.setattr(v4npu.model.Model, "forward", lambda *a, **k: right(*a, **k) * torch.nan)
    status, out, err = v4npu_command(*MODEL, "--json", "-")
    assert status == 1 and "logits are not finite" in err and "seconds" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["block", "--kind", "moe"], "--kind 'moe' is none of window, csa, hca"),
        (["block", "--contexts", "1,-1"], "--contexts must be numbers"),
        (["block", "--contexts", "", "--chunk", "0"], "nothing to measure"),
        (["block", "--repeats", "0"], "--repeats"),
        (["model", "/nonexistent"], "/nonexistent"),
        (["model", "--enable", "--transformers"], "--enable and --transformers"),
        (["model", "--prompts", ""], "--prompts must name a length"),
        (["model", "--dtype", "float16"], "--dtype 'float16' is none of"),
        (["model", "--numerics", "best"], "--numerics 'best' is none of"),
        (["model", "--prompts", "9,9999999"], "--prompts and --new need 10000031 positions, the model has 1048576"),
    ],
)
def test_what_is_refused_before_anything_is_measured(v4npu_command, monkeypatch, arguments, said):
    monkeypatch.setattr("v4npu.bench.timing.peaks", lambda *_: pytest.fail("measured first"))
    status, out, err = v4npu_command("bench", *arguments)
    assert (status, out) == (2, "") and said in err and err.count("\n") == 1
