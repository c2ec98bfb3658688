"""The lightning indexer of CSA layers: which compressed entries a query attends to."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu import ops
from v4npu.cache import LayerCache
from v4npu.model.compressor import Compressor
from v4npu.model.config import Config
from v4npu.model.linear import Activation, Linear
from v4npu.model.module import Module
from v4npu.model.step import Step


class Indexer(Module):
    """Scores every visible entry with `index_n_heads` small heads and keeps the best `index_topk`."""

    def __init__(self, config: Config, ratio: int, official: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.head_dim = config.index_n_heads, config.index_head_dim
        self.topk = config.index_topk
        self.ratio = ratio
        self.official = official
        self.wq_b = Linear(config.q_lora_rank, self.heads * self.head_dim, dtype)
        self.weights_proj = Linear(config.hidden_size, self.heads, dtype)
        quant = "hadamard_fp4" if official else "none"
        self.compressor = Compressor(config, ratio, self.head_dim, quant, dtype)

    def forward(self, x: Activation, qa: Activation, freqs: Tensor, step: Step, cache: LayerCache | None) -> Tensor:
        """int32 [T, index_topk], -1 = unused. Picking has no gradient, so nothing flows back to the trunk."""
        if torch.is_grad_enabled():  # the indexer learns from its own loss alone
            x, qa = Activation(x.x.detach(), x.official), Activation(qa.x.detach(), qa.official)
        q = self.wq_b(qa).unflatten(-1, (self.heads, self.head_dim))
        q = ops.indexer_query(q, step.positions, freqs, self.official)
        weights = self.weights_proj(x) * (self.head_dim**-0.5 * self.heads**-0.5)
        if cache is None or step.tables is None:
            keys, block_table = step.own_pages(self.compressor(x.x, freqs, step, None, None))
        else:
            assert cache.keys is not None
            self.compressor(x.x, freqs, step, cache.index_state, cache.keys)
            keys, block_table = cache.keys, step.tables.block_table
        step.note("index_query", q)
        step.note("index_weights", weights)
        step.note("index_keys", keys)
        return ops.indexer_topk(
            q,
            weights,
            keys,
            block_table,
            step.cu_seqlens_q,
            step.start_pos,
            self.ratio,
            self.topk,
            self.official,
        )
