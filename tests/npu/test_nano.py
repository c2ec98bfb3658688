"""The bundled model on the emulated NPU: the same greedy text as on the CPU, with our kernels where there are some."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import v4npu
from v4npu import device
model = v4npu.load("nano", device=sys.argv[1], dtype=sys.argv[2], numerics=sys.argv[3])
text = "".join(model.generate("Call me Ishmael.", max_new_tokens=int(sys.argv[4])))
print(json.dumps({"text": text, "device": str(model.device), "reference": sorted(op for op, _ in device._warned)}))
"""


def generate(device: str, dtype: str, numerics: str, tokens: int, **env: str) -> dict:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, device, dtype, numerics, str(tokens)],
        env={**os.environ, **env}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("dtype", "numerics"), [("float32", "exact"), ("float32", "official"), ("bfloat16", "official")]
)
def test_greedy_text_is_that_of_the_cpu(dtype: str, numerics: str, variants: dict[str, str]) -> None:
    wanted = generate("cpu", dtype, numerics, 4)["text"]
    found = generate("npu:0", dtype, numerics, 4)
    assert found["device"] == "npu:0" and found["text"] == wanted and len(wanted) > 4
    # Each operator that the model called and the reference served is one that the table says has no kernel.
    assert not [op for op in found["reference"] if variants[op] != "reference"]
