"""The bundled checkpoint: small, complete, literate, and the same in exact and official numerics."""

from pathlib import Path

import pytest
import torch

import v4npu
from v4npu.loader import NANO
from v4npu.perplexity import perplexity

HELD_OUT = (Path(__file__).parents[1] / "data" / "moby_dick_tail.txt").read_text(encoding="utf-8")
BITS_BOUND = 1.98  # 1.974 exact, 1.975 official


@pytest.fixture(scope="module")
def nano():
    return v4npu.load("nano")


def test_size_and_features(nano):
    assert sum(file.stat().st_size for file in NANO.iterdir()) <= 8 << 20
    config = nano.config
    assert config.compress_ratios == (0, 0, 4, 128, 4, 128, 0)
    assert (config.sliding_window, config.hc_mult, config.num_hash_layers) == (128, 4, 2)
    assert config.index_topk < 2048 // 4 and config.rope_scaling is not None and len(nano.mtp) == 1
    assert nano.layers[0].ffn.experts.w1.weight.dtype == torch.int8
    assert nano.layers[0].attn.wq_a.weight.dtype == torch.float8_e4m3fn
    assert any(layer.ffn.gate.bias is not None and layer.ffn.gate.bias.abs().max() > 0 for layer in nano.layers)
    assert nano.layers[0].attn.attn_sink.abs().max() > 0


def test_held_out_bits_per_byte(nano):
    text = HELD_OUT[:8000]
    official = perplexity(nano, text, context=512).bits_per_byte
    exact = perplexity(v4npu.load("nano", dtype="float32", numerics="exact"), text, context=512).bits_per_byte
    assert official < BITS_BOUND
    assert abs(official - exact) < 0.01


def test_writes_words(nano):
    text = "".join(nano.generate("Call me Ishmael.", max_new_tokens=60, temperature=0.7, seed=1))
    words = [w.strip(".,;:!?—’‘“”()-").lower() for w in text.split()]
    known = set(HELD_OUT.lower().replace(",", " ").replace(".", " ").split())
    assert len(words) > 20 and sum(w in known for w in words) > 0.6 * len(words)


def test_cached_and_whole_text_agree(nano):
    ids = torch.tensor([nano.tokenizer.encode(HELD_OUT[:1500])])
    model = v4npu.load("nano", dtype="float32", numerics="exact")
    with torch.inference_mode():
        whole = model(ids)
        cache = model.new_cache(1, ids.shape[1])
        parts = [model(part, cache=cache) for part in ids.split([100, 1, 1, 1, 130, ids.shape[1] - 233], dim=1)]
    assert torch.equal(torch.cat(parts, dim=1).argmax(-1), whole.argmax(-1))
