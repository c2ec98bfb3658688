"""Small random models that exercise what the large ones do."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import v4npu
from v4npu.model import Config, Model

TINY = Config(
    vocab_size=48, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, q_lora_rank=32, o_groups=2,
    n_routed_experts=4, moe_intermediate_size=32, compress_ratios=(0, 4, 16, 4, 0), head_dim=32,
    qk_rope_head_dim=16, o_lora_rank=16, sliding_window=8, index_n_heads=4, index_head_dim=16, index_topk=4,
    num_experts_per_tok=2, num_hash_layers=1, max_position_embeddings=4096,
)  # fmt: skip
# Official ratios and window in two layers: what a residue modulo 128 can break shows in no shrunk model.
OFFICIAL = replace(
    TINY, num_hidden_layers=2, compress_ratios=(4, 128, 0), sliding_window=128, index_topk=8, num_hash_layers=1
)


def model(config: Config = TINY, seed: int = 0, **options: object) -> Model:
    """A random model of this configuration; options as for v4npu.load."""
    with tempfile.TemporaryDirectory() as folder:
        v4npu.checkpoint.random(Path(folder) / "random", config, seed=seed)
        return v4npu.load(Path(folder) / "random", device="cpu", **options)
