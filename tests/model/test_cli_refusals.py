"""Unusable input: exit status 2, nothing on stdout, one line on stderr that names the culprit, nothing written."""

import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from v4npu import checkpoint
from v4npu.checkpoint_random import random_tensors
from v4npu.loader import NANO
from v4npu.model.config import Config

TINY = Config(
    vocab_size=1024, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, q_lora_rank=32, o_groups=1,
    n_routed_experts=2, moe_intermediate_size=32, compress_ratios=(0, 4), head_dim=32, qk_rope_head_dim=16,
    o_lora_rank=16, sliding_window=8, index_n_heads=2, index_head_dim=32, index_topk=4, num_experts_per_tok=1,
    num_hash_layers=1, max_position_embeddings=32, num_nextn_predict_layers=0,
)  # fmt: skip


@pytest.mark.parametrize(
    "arguments, culprit",
    [
        ("generate", "--prompt"), ("generate --prompt x --chat y", "--chat"), ("generate --prompt=", "prompt"),
        ("generate --prompt x --top-p 0", "top_p"), ("generate --prompt x --temperature nan", "temperature"),
        ("generate --prompt x --seed -1", "seed"), ("generate --prompt x --max-new-tokens many", "max-new-tokens"),
        ("generate --prompt x --max-new-tokens 9999999", "positions"),
        ("generate --prompt x --device cuda:99", "cuda:99"),
        ("generate --prompt x --device gpu", "gpu"), ("generate --prompt x --dtype int8", "int8"),
        ("generate --prompt x --numerics fast", "fast"), ("generate absent --prompt x", "absent"),
        ("generate --chat hi", "control tokens"), ("generate --prompt x --think max", "--chat"),
        ("perplexity", "--text"), ("perplexity --text absent", "absent"), ("perplexity --text .", ".: Is a directory"),
        ("bench compare a.jsonl b.jsonl", "v4npu: a.jsonl: No such file"),
        ("bench ops --op rope --json=", "--json"),
        *((f"{command} {'a' * 5000}", "a: File name too long") for command in (
            "generate --prompt x", "inspect", "perplexity --text", "bench report")),
        ("inspect absent", "absent"), ("inspect pro --context 0", "context"),
        ("inspect --context 1e6", "context"), ("sing", "sing"), ("doctor --loud", "--loud"),
        ("emulate --soc ascend310 -- true", "ascend310"), ("emulate", "COMMAND"),
    ],
)  # fmt: skip
def test_unusable_input(v4npu_command, arguments, culprit):
    status, out, err = v4npu_command(*arguments.split())
    assert (status, out) == (2, "")
    assert culprit in err and err.count("\n") == 1 and "Traceback" not in err and not err.startswith("v4npu: v4npu")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A checkpoint of several shards, with nano's tokenizer."""
    path = tmp_path_factory.mktemp("refusals") / "sound"
    checkpoint.save(path, TINY, random_tensors(TINY), shard_bytes=100_000, tokenizer=NANO / "tokenizer.json")
    return path


def last_shard(path):
    return max(path.glob("*.safetensors"))


def in_tensors(change):
    """A case that rewrites the shard with norm.weight and others through `change`."""

    def apply(path):
        for file in path.glob("*.safetensors"):
            tensors = load_file(file)
            if "norm.weight" in tensors:
                change(tensors)
                file.unlink()
                save_file(tensors, file)

    return apply


def in_json(name, **values):
    """A case that sets top-level values of a JSON file."""

    def apply(path):
        file = path / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return apply


def large_ids(path):
    file = path / "tokenizer.json"
    data = json.loads(file.read_text())
    data["model"]["vocab"]["x"] = 1_000_000
    file.write_text(json.dumps(data))


HEADER = {"norm.weight": {"dtype": "BF16", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}
ABSURD = struct.pack("<Q", len(json.dumps(HEADER))) + json.dumps(HEADER).encode() + bytes(8)
BROKEN = {
    "shard missing": (lambda p: last_shard(p).unlink(), "no such file; expected a safetensors shard"),
    "shard truncated": (lambda p: os.truncate(last_shard(p), last_shard(p).stat().st_size - 100), "truncated"),
    "shard empty": (lambda p: last_shard(p).write_bytes(b""), "header length"),
    "header of exabytes": (lambda p: last_shard(p).write_bytes(struct.pack("<Q", 2**62) + b"{}"), "header length"),
    "shape of zettabytes": (lambda p: last_shard(p).write_bytes(ABSURD), "fewer than 2**59"),
    "wrong dtype": (in_tensors(lambda t: t.update({"norm.weight": torch.ones(64).char()})), "norm.weight must be"),
    "wrong shape": (in_tensors(lambda t: t.update({"norm.weight": torch.ones(63)})), "got F32 [63]"),
    "tensor missing": (in_tensors(lambda t: t.pop("norm.weight")), "'norm.weight' must be here"),
    "NaN": (in_tensors(lambda t: t["norm.weight"].fill_(torch.nan)), "'norm.weight' must not hold NaN"),
    "pickle": (lambda p: [f.unlink() for f in p.glob("*.safetensors*")] and (p / "m.bin").touch(), "holds no *.safe"),
    "architecture": (in_json("config.json", model_type="llama", architectures=["Llama"]), "unknown architecture"),
    "absurd size": (in_json("config.json", hidden_size=10**12), "hidden_size must be"),
    "string for a size": (in_json("config.json", hidden_size="64"), "hidden_size must be"),
    "config missing": (lambda p: (p / "config.json").unlink(), "config.json: no such file"),
    "config no JSON": (lambda p: (p / "config.json").write_text("{"), "config.json"),
    "tokenizer missing": (lambda p: (p / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer malformed": (lambda p: (p / "tokenizer.json").write_text("{}"), "tokenizer.json: not a byte-level"),
    "ids beyond the vocabulary": (large_ids, "0..1023, got 1000000"),
    "context too long": (lambda p: None, "need 65 positions, the model has 32"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints(v4npu_command, sound, tmp_path, case):
    change, culprit = BROKEN[case]
    path = tmp_path / "broken"
    shutil.copytree(sound, path)
    change(path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    status, out, err = v4npu_command("generate", path, "--prompt", "x")
    assert (status, out) == (2, "")
    assert culprit in err and err.count("\n") == 1
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_the_sound_checkpoint_is_not_refused(v4npu_command, sound):
    assert v4npu_command("generate", sound, "--prompt", "x", "--max-new-tokens", 1)[0] == 0


@pytest.mark.parametrize(
    "text, context, culprit",
    [(b"", 16, "text must not be empty"), (b"\xff\xfe", 16, "utf-8"), (b"whale", 64, "context must be 2..32, got 64"),
     (b"whale", 1, "context must be 2..32, got 1")],
)  # fmt: skip
def test_unusable_text(v4npu_command, sound, tmp_path, text, context, culprit):
    (tmp_path / "a.txt").write_bytes(text)
    status, out, err = v4npu_command("perplexity", sound, "--text", tmp_path / "a.txt", "--context", context)
    assert (status, out) == (2, "") and culprit in err and err.count("\n") == 1
