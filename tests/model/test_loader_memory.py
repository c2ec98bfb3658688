"""Loading takes little more host memory than the tensors it keeps, and nothing that it does not use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from v4npu import checkpoint
from v4npu.checkpoint_names import layout, scale_name, stored_shapes
from v4npu.model.config import Config

SMALL = Config(
    vocab_size=48, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, q_lora_rank=32, o_groups=2,
    n_routed_experts=4, moe_intermediate_size=32, compress_ratios=(0, 4), head_dim=32, qk_rope_head_dim=16,
    o_lora_rank=16, sliding_window=8, index_n_heads=4, index_head_dim=16, index_topk=4, num_experts_per_tok=2,
    num_hash_layers=1, max_position_embeddings=512, num_nextn_predict_layers=0,
)  # fmt: skip
WIDE = replace(SMALL, hidden_size=1024, moe_intermediate_size=1024)
# What there is most of, the configuration, the dtype of experts and linears, and the dtype to load as.
CASES = {
    "fp4 experts": (replace(WIDE, n_routed_experts=28), torch.int8, torch.float8_e4m3fn, "bfloat16"),
    "bf16 experts": (replace(WIDE, n_routed_experts=8), torch.bfloat16, torch.bfloat16, "bfloat16"),
    "fp8 experts": (replace(WIDE, n_routed_experts=16), torch.float8_e4m3fn, torch.float8_e4m3fn, "bfloat16"),
    "embeddings, widened": (replace(WIDE, vocab_size=8192), torch.int8, torch.float8_e4m3fn, "float32"),
}
# The high-water mark of the process's own memory map. getrusage's ru_maxrss would not do: on Linux a process starts
# with the peak of the one that forked it, here a test runner that may be larger than all that is loaded.
PEAK = """
import json, sys
import torch
from v4npu.checkpoint import Checkpoint
from v4npu.loader import load
from v4npu.shards import Shard

def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

def peak():
    try:
        open("/proc/self/clear_refs", "w").write("5")  # the mark starts again from here
    except OSError:
        pass  # then an earlier peak counts too, which is stricter
    resident = memory("VmRSS:")
    model = load(sys.argv[1], device="cpu", dtype=sys.argv[3])
    kept = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    return (memory("VmHWM:") - resident) / kept, kept

torch.set_num_threads(1)
load(sys.argv[2], device="cpu", dtype=sys.argv[3])  # what is imported on first use is no part of the tensors
ratio, kept = peak()
if sys.argv[4] == "careless":
    Shard._release = lambda *_: None
    ratio, kept = peak()
print(json.dumps([ratio, kept]))
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc for the resident memory")


def script(text: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-c", text, *map(str, arguments)]
    # malloc's threshold slides otherwise, and in some runs leaves 15 MB of what was given back in the heap.
    own = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr
    return done.stdout


def constant_tensors(config: Config, expert: torch.dtype, linear: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    for name, spec in layout(config).items():
        dtype = {"expert": expert, "linear": linear, "ids": torch.int64}.get(spec.kind, torch.bfloat16)
        shape, scale = stored_shapes(spec, dtype) or (spec.shape, None)
        yield name, torch.zeros(shape, dtype=dtype)
        if scale is not None:
            yield scale_name(name), torch.ones(scale).to(torch.float8_e8m0fnu)


def measure(tmp_path: Path, case: str, how: str) -> float:
    config, expert, linear, dtype = CASES[case]
    checkpoint.save(tmp_path / "big", config, constant_tensors(config, expert, linear), shard_bytes=32 << 20)
    checkpoint.random(tmp_path / "small", SMALL)
    ratio, kept = json.loads(script(PEAK, tmp_path / "big", tmp_path / "small", dtype, how))
    assert kept > 80e6  # a few MB of the allocator's own do not matter
    return ratio


@linux
@pytest.mark.parametrize("case", CASES)
def test_peak_stays_near_what_is_kept(tmp_path: Path, case: str) -> None:
    assert 0.9 < measure(tmp_path, case, "as is") < 1.1


@linux
def test_the_measure_sees_pages_that_are_not_given_back(tmp_path: Path) -> None:
    assert measure(tmp_path, "bf16 experts", "careless") > 1.6


def test_loading_imports_no_symbolic_algebra() -> None:
    """sympy costs two seconds and 80 MB; torch pulls it in when a module initialises meta tensors."""
    loaded = script(
        "import sys, torch; before = set(sys.modules); import v4npu; v4npu.load('nano')("
        "torch.zeros(1, 3, dtype=torch.int64)); print(*(set(sys.modules) - before))"
    ).split()
    assert "v4npu.loader" in loaded
    assert not {"sympy", "transformers", "rich"} & set(loaded)
