"""Prompts longer than what passes through the layers at once on a CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import v4npu
from v4npu.cache.store import piece_tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_last_logits_are_those_of_all_whatever_the_pieces(dtype: torch.dtype) -> None:
    model = v4npu.load("nano", dtype=dtype)
    ids = torch.randint(0, model.config.vocab_size, (2, 700), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :60] = 0
    cache = model.new_cache(batch=2)
    assert cache.store.piece_tokens < 640
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, cache=cache)
        last = model(ids, attention_mask=mask, cache=model.new_cache(batch=2), last_only=True)
        pieces = model.new_cache(batch=2)
        for at in range(0, 700, 100):
            by_hundreds = model(ids[:, at : at + 100], attention_mask=mask[:, at : at + 100], cache=pieces)
    assert torch.equal(last, whole[:, -1:]) and torch.equal(by_hundreds, whole[:, 600:])


def test_pieces_grow_with_the_experts_that_share_them() -> None:
    config = v4npu.load("nano").config
    for experts, topk, tokens in ((8, 2, 512), (32, 6, 512), (64, 6, 1024), (256, 6, 4096), (4096, 1, 4096)):
        of = dataclasses.replace(config, n_routed_experts=experts, num_experts_per_tok=topk)
        assert piece_tokens(of, torch.device("cpu")) == tokens
    assert piece_tokens(config, torch.device("cuda")) == 4096
