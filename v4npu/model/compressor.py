"""The compressor of CSA and HCA layers and of the indexer."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu import ops
from v4npu.model.config import Config
from v4npu.model.linear import Linear, Norm, float_parameter
from v4npu.model.module import Module
from v4npu.model.step import Step


class Compressor(Module):
    """Pools every `ratio` tokens into one entry of `head_dim`."""

    def __init__(self, config: Config, ratio: int, head_dim: int, quant: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.ratio = ratio
        self.overlap = config.overlap(ratio)
        self.quant = quant
        self.dtype = dtype
        width = (2 if self.overlap else 1) * head_dim
        self.wkv = Linear(config.hidden_size, width, dtype)
        self.wgate = Linear(config.hidden_size, width, dtype)
        self.ape = float_parameter(ratio, width, dtype=dtype)
        self.norm = Norm(head_dim, config.rms_norm_eps, dtype)

    def forward(self, x: Tensor, freqs: Tensor, step: Step, state: Tensor | None, pages: Tensor | None) -> Tensor:
        """x [T, d] -> the entries completed in this pass [n, head_dim], stored to `pages` too."""
        tables = step.tables
        return ops.compressor(
            self.wkv.wide(x),
            self.wgate.wide(x),
            self.ape,
            self.norm.weight,
            freqs,
            step.cu_seqlens_q,
            step.start_pos,
            state,
            None if tables is None else tables.state_slots,
            self.ratio,
            self.overlap,
            self.norm.eps,
            self.quant,
            step.entries(self.ratio),
            self.dtype,
            pages,
            None if tables is None else tables.entry_slots(self.ratio),
        )
