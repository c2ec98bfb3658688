"""Muon, the optimiser of V4's matrices, and the split between it and AdamW (docs/v4.md, Training)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2
# The matrices that AdamW keeps, beside every vector: norms, sinks, mHC's static biases and gating factors.
_ADAMW = ("embed.", "head.", ".ape")


def orthogonalise(g: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix of each g [..., n, m], by ten Newton-Schulz steps in bfloat16."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-20)).bfloat16()
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; stacked experts [E, n, m] count as E matrices.

    Args:
        params: matrices [n, m] or stacks of them.
        lr: step size; updates have an RMS of about gamma * lr whatever the shape.
        momentum: of the gradient average (Nesterov form).
        weight_decay: decoupled, times lr.
        gamma: RMS of the update.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        gamma: float = 0.18,
    ) -> None:
        for name, value in (
            ("lr", lr),
            ("momentum", momentum),
            ("weight_decay", weight_decay),
            ("gamma", gamma),
        ):
            if not value >= 0:
                raise ValueError(f"Muon: {name} must not be negative, got {value}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "gamma": gamma})
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() not in (2, 3):
                    raise ValueError(f"Muon: params must be matrices or stacks of them, got shape {list(p.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, mu, gamma = group["lr"], group["momentum"], group["gamma"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].mul_(mu).add_(p.grad)
                update = orthogonalise(p.grad + mu * m) * (max(p.shape[-2:]) ** 0.5 * gamma)
                p.mul_(1 - lr * group["weight_decay"]).sub_(update, alpha=lr)
        return loss


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(for Muon, for AdamW): every trainable parameter of a v4npu model, once."""
    muon: list[nn.Parameter] = []
    adamw: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (adamw if p.dim() < 2 or any(part in name for part in _ADAMW) else muon).append(p)
    return muon, adamw
