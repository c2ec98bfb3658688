"""One layer: attention and MoE, each between the mixes of the residual streams; and the MTP layer."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.cache import LayerCache
from v4npu.model.attention import Attention
from v4npu.model.config import Config
from v4npu.model.hyper_connection import add_mixes, through
from v4npu.model.linear import Activation, Linear, Norm
from v4npu.model.module import Module
from v4npu.model.moe import MoE
from v4npu.model.step import Step


class Block(Module):
    """streams [T, m, d] -> streams."""

    def __init__(self, config: Config, layer: int, official: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.attn_norm = Norm(config.hidden_size, config.rms_norm_eps, dtype)
        self.ffn_norm = Norm(config.hidden_size, config.rms_norm_eps, dtype)
        add_mixes(self, "hc_attn", config, dtype)
        add_mixes(self, "hc_ffn", config, dtype)
        self.attn = Attention(config, config.compress_ratios[layer], official, dtype)
        self.ffn = MoE(config, layer < config.num_hash_layers, official, dtype)

    def forward(self, streams: Tensor, step: Step, cache: LayerCache | None) -> Tensor:
        streams = through(self, "hc_attn", self.config, streams, lambda x: self.attn(self.attn_norm(x), step, cache))
        return through(self, "hc_ffn", self.config, streams, lambda x: self.ffn(self.ffn_norm(x), step))


class MTPBlock(Block):
    """The draft layer: streams after the last layer and the embedding of the next token -> streams."""

    def __init__(self, config: Config, layer: int, official: bool, dtype: torch.dtype) -> None:
        super().__init__(config, layer, official, dtype)
        d = config.hidden_size
        self.official = official
        self.enorm = Norm(d, config.rms_norm_eps, dtype)
        self.hnorm = Norm(d, config.rms_norm_eps, dtype)
        self.norm = Norm(d, config.rms_norm_eps, dtype)
        self.e_proj = Linear(d, d, dtype)
        self.h_proj = Linear(d, d, dtype)
        add_mixes(self, "hc_head", config, dtype, head=True)

    def draft(self, streams: Tensor, embedded: Tensor, step: Step, cache: LayerCache | None) -> Tensor:
        """streams [T, m, d], embedded next tokens [T, d] -> streams of the draft position."""
        e = self.e_proj(Activation(self.enorm(embedded), self.official))
        h = self.h_proj(Activation(self.hnorm(streams).flatten(0, 1), self.official)).view_as(streams)
        return super().forward(e.unsqueeze(1) + h, step, cache)
