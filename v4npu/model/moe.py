"""The mixture of experts: gate, routed experts, shared expert."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from v4npu import ops
from v4npu.model.config import Config
from v4npu.model.linear import Activation, Linear, float_parameter
from v4npu.model.module import Module
from v4npu.model.step import Step


class Gate(Module):
    """Learned top-k routing with a selection bias, or a table lookup by token id in hash layers."""

    def __init__(self, config: Config, hashed: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size, dtype=dtype, device="meta"))
        self.bias: nn.Parameter | None
        self.tid2eid: nn.Parameter | None
        if hashed:
            table = torch.empty(config.vocab_size, config.num_experts_per_tok, dtype=torch.int64, device="meta")
            self.tid2eid = nn.Parameter(table, requires_grad=False)
            self.bias = None
        else:
            self.bias = float_parameter(config.n_routed_experts, dtype=dtype)
            self.bias.requires_grad_(False)  # moved by the balance rule, not by the loss
            self.tid2eid = None

    def forward(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        scale = self.config.routed_scaling_factor
        if self.tid2eid is not None:
            return ops.hash_gate(x, self.weight, self.tid2eid, step.input_ids, scale)
        return ops.gate(x, self.weight, self.bias, self.config.num_experts_per_tok, scale)


class Experts(Module):
    """w1 (gate), w3 (up) and w2 (down) of all routed experts, stacked."""

    def __init__(self, config: Config, dtype: torch.dtype) -> None:
        super().__init__()
        d, width, experts = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
        self.w1 = Linear(d, width, dtype, experts=experts)
        self.w3 = Linear(d, width, dtype, experts=experts)
        self.w2 = Linear(width, d, dtype, experts=experts)


class SharedExpert(Module):
    """The expert that every token passes."""

    def __init__(self, config: Config, official: bool, dtype: torch.dtype) -> None:
        super().__init__()
        d, width = config.hidden_size, config.moe_intermediate_size * config.n_shared_experts
        self.limit, self.official = config.swiglu_limit, official
        self.w1 = Linear(d, width, dtype)
        self.w3 = Linear(d, width, dtype)
        self.w2 = Linear(width, d, dtype)

    def forward(self, x: Activation) -> Tensor:
        return self.w2(Activation(ops.swiglu(self.w1(x), self.w3(x), None, self.limit), self.official))


class MoE(Module):
    """x [T, d] -> [T, d]."""

    def __init__(self, config: Config, hashed: bool, official: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.official = config, official
        self.gate = Gate(config, hashed, dtype)
        self.experts = Experts(config, dtype)
        self.shared_experts = SharedExpert(config, official, dtype) if config.n_shared_experts else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        indices, weights = self.gate(x, step)
        step.note("expert_indices", indices)
        step.note("gate_input", x)
        e, shared = self.experts, None
        if self.shared_experts is not None:
            shared = self.shared_experts(Activation(x, self.official))
        y = ops.moe_experts(
            x,
            indices,
            weights,
            e.w1.weight,
            e.w1.scale,
            e.w3.weight,
            e.w3.scale,
            e.w2.weight,
            e.w2.scale,
            self.config.swiglu_limit,
            self.official,
            shared,
        )
        return y.to(x.dtype)
