"""Muon: updates are orthogonal, scaled, and per matrix; the split covers every trainable parameter once."""

import pytest
import torch

from v4npu.optim import Muon, orthogonalise, split_parameters
from v4npu.testing import models


@pytest.mark.parametrize("shape", [(16, 16), (64, 16), (16, 64), (3, 24, 40)])
def test_orthogonalise(shape):
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert (values > 0.7).all() and (values < 1.3).all()


def test_update_size_does_not_depend_on_the_gradient():
    for factor in (1e-6, 1.0, 1e6):
        p = torch.nn.Parameter(torch.zeros(32, 48))
        p.grad = factor * torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
        Muon([p], lr=0.1).step()
        assert p.detach().square().mean().sqrt() == pytest.approx(0.1 * 0.18, rel=0.15)


def test_stacked_matrices_are_independent():
    grad = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    stacked, single = torch.nn.Parameter(torch.zeros(2, 8, 8)), torch.nn.Parameter(torch.zeros(8, 8))
    stacked.grad, single.grad = grad.clone(), grad[1].clone()
    for p in (stacked, single):
        Muon([p], lr=0.1).step()
    assert torch.allclose(stacked[1], single, atol=1e-3)


def test_tables_and_vectors_are_adamws():
    model = models.model(numerics="exact").requires_grad_()
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    muon, adamw = split_parameters(model)
    assert len(muon) + len(adamw) == len(names) and {*muon, *adamw} == set(names)
    assert {names[p].rpartition(".")[2] for p in muon} == {"weight", "hc_attn_fn", "hc_ffn_fn", "hc_head_fn"}
    tables = {names[p] for p in adamw if p.dim() > 1}
    assert {"embed.weight", "head.weight"} < tables and all(n.endswith(".ape") for n in tables if n.count(".") > 1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="lr"):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))], lr=-1.0)
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
