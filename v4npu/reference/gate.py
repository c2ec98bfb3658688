"""Reference of gate and hash_gate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from v4npu.reference.formats import wide


def router_scores(x: Tensor, weight: Tensor) -> Tensor:
    """sqrt(softplus(x W^T)) in float32 [T, E]."""
    x = wide(x)
    return softplus(linear(x, weight.to(x.dtype))).sqrt()


def _weights(scores: Tensor, indices: Tensor, route_scale: float) -> Tensor:
    picked = scores.gather(-1, indices)
    return picked / picked.sum(-1, keepdim=True) * route_scale


def top_indices(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest values of the last dim, largest first, NaN before all; ties: the smaller index first."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]


def _within(name: str, values: Tensor, what: str, count: int) -> None:
    wrong = values[(values < 0) | (values >= count)]
    if wrong.numel():
        raise ValueError(f"v4npu.hash_gate: {name} must be within {what}, got {int(wrong[0])}")


def gate(x: Tensor, weight: Tensor, bias: Tensor | None, topk: int, route_scale: float) -> tuple[Tensor, Tensor]:
    """See v4npu.ops.gate."""
    scores = router_scores(x, weight)
    choice = scores.detach() if bias is None else scores.detach() + bias.to(scores.dtype)
    indices = top_indices(choice, topk)
    return indices.int(), _weights(scores, indices, route_scale)


def hash_gate(
    x: Tensor, weight: Tensor, tid2eid: Tensor, input_ids: Tensor, route_scale: float
) -> tuple[Tensor, Tensor]:
    """See v4npu.ops.hash_gate."""
    _within("input_ids", input_ids, "the rows of tid2eid", tid2eid.shape[0])
    indices = tid2eid[input_ids]
    _within("tid2eid", indices, "the experts", weight.shape[0])
    return indices.int(), _weights(router_scores(x, weight), indices, route_scale)
