"""mHC: the residual streams around a sublayer, and their collapse before the head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from v4npu import ops
from v4npu.model.config import Config
from v4npu.model.linear import float_parameter


def add_mixes(module: nn.Module, prefix: str, config: Config, dtype: torch.dtype, *, head: bool = False) -> None:
    """Registers `<prefix>_fn`, `_base` and `_scale` on the module, under the checkpoint's names."""
    m = config.hc_mult
    rows = m if head else (2 + m) * m
    module.register_parameter(f"{prefix}_fn", float_parameter(rows, m * config.hidden_size, dtype=dtype))
    module.register_parameter(f"{prefix}_base", float_parameter(rows, dtype=dtype))
    module.register_parameter(f"{prefix}_scale", float_parameter(1 if head else 3, dtype=dtype))


def _mixes(module: nn.Module, prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(getattr(module, f"{prefix}_{part}") for part in ("fn", "scale", "base"))


def through(
    module: nn.Module, prefix: str, config: Config, streams: Tensor, sublayer: Callable[[Tensor], Tensor]
) -> Tensor:
    """streams [T, m, d] -> streams, mixed around `sublayer` ([T, d] -> [T, d])."""
    x, post, comb = ops.hc_pre(
        streams, *_mixes(module, prefix), config.rms_norm_eps, config.hc_eps, config.hc_sinkhorn_iters
    )
    return ops.hc_post(sublayer(x), streams, post, comb)


def collapse(module: nn.Module, config: Config, streams: Tensor) -> Tensor:
    """streams [T, m, d] -> [T, d], with the module's hc_head mixes."""
    return ops.hc_head(streams, *_mixes(module, "hc_head"), config.rms_norm_eps, config.hc_eps)
