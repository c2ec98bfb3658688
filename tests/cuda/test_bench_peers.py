"""Peers of bench/cuda_device.py, in whose place stands what their pages document: formats and arguments are theirs."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from v4npu.model.config import Config
from v4npu.reference.pages import read_kv
from v4npu.testing.bench import SMALL, arguments
from v4npu.testing.cuda import script
from v4npu.testing.steps import step

script("bench/cuda_device.py")
import accelerator  # noqa: E402
import cuda_ops  # noqa: E402
import cuda_peers  # noqa: E402

FEW = replace(Config.preset("flash"), num_attention_heads=8, o_groups=1, index_n_heads=4)


def flash_mla_with_kvcache(
    q: Tensor, k_cache: Tensor, block_table: None, cache_seqlens: None, head_dim_v: int, plan: str, **given: Any
) -> tuple[Tensor, None]:
    assert plan == "plan" and given["is_fp8_kvcache"] and q.shape[1] == 1 and head_dim_v == 512
    out = torch.empty_like(q)
    for b in range(len(q)):
        kv = []
        for cache, listed in (
            (k_cache, given["indices"]),
            (given["extra_k_cache"], given["extra_indices_in_kvcache"]),
        ):
            assert cache.shape[2:] == (1, 584) and cache.stride(0) % 576 == 0 and listed.shape[-1] % 64 == 0
            slots = listed[b, 0][listed[b, 0] >= 0].long()
            kv.append(read_kv(cache.view(torch.uint8).squeeze(2), slots, 512, 64).float())
        keys = torch.cat(kv)
        scores = q[b, 0].float() @ keys.T * given["softmax_scale"]
        p = torch.cat((scores, given["attn_sink"].unsqueeze(1)), 1).softmax(1)[:, :-1]
        out[b, 0] = p @ keys
    return out, None


def fp8_paged_mqa_logits(
    q: Tensor, cache: Tensor, weights: Tensor, lengths: Tensor, table: Tensor, plan: str, longest: int, *,
    clean_logits: bool,
) -> Tensor:  # fmt: skip
    count, size, one, row = cache.shape
    assert (one, row, plan, clean_logits) == (1, 132, "plan", False) and q.dtype == torch.float8_e4m3fn
    flat = cache.view(count, -1)
    keys = flat[:, : size * 128].view(torch.float8_e4m3fn).view(count, size, 128).float()
    keys = keys * flat[:, size * 128 :].contiguous().view(torch.float32).unsqueeze(-1)
    out = torch.full((len(q), longest), torch.nan)  # behind a sequence's end, whatever was there
    for b, n in enumerate(lengths[:, 0].tolist()):
        dots = q[b, 0].float() @ keys[table[b].long()].flatten(0, 1)[:n].T
        out[b, :n] = (dots.relu() * weights[b].unsqueeze(1)).sum(0)
    return out


def fp8_gemm_nt(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], out: Tensor) -> None:
    assert a[1].dtype == b[1].dtype == torch.float32
    x = a[0].float() * a[1].repeat_interleave(128, 1)[:, : a[0].shape[1]]
    w = b[1].repeat_interleave(128, 0)[: len(b[0])].repeat_interleave(128, 1)[:, : b[0].shape[1]] * b[0].float()
    out.copy_(x @ w.T)


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "IN_GRAPH", 1)
    modules = {
        "flash_mla": {"flash_mla_with_kvcache": flash_mla_with_kvcache, "get_mla_metadata": lambda: ("plan", None)},
        "deep_gemm": {
            "fp8_paged_mqa_logits": fp8_paged_mqa_logits, "fp8_gemm_nt": fp8_gemm_nt, "get_num_sms": lambda: 132,
            "get_paged_mqa_logits_metadata": lambda lengths, size, sms: "plan",
            "bf16_gemm_nt": lambda a, b, out: out.copy_(a @ b.T * 1.1),
        },
    }  # fmt: skip
    for name, functions in modules.items():
        module = ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("op", ["csa_attention", "hca_attention", "indexer_scores", "fp8_linear"])
def test_a_peer_gets_our_arguments_in_its_formats(peers: None, op: str) -> None:
    args = arguments(op, 2) if op == "fp8_linear" else step(op, (1, 1), (2_303, 130), FEW)
    case = cuda_ops.Case(op, "few", "decode", torch.bfloat16, lambda: args, (2, 1))
    rows = list(cuda_peers.beside(accelerator.Cpu(), case, 1))
    assert [(row["status"], row["tokens"]) for row in rows] == [("ok", 2), ("ok", 1)]
    assert all(row["warm_us"] > 0 and row["diff"] < 1e-4 for row in rows)


def test_a_peer_with_another_result_or_signature_gets_no_time(peers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments("linear", 2, config=SMALL)
    case = cuda_ops.Case("linear", "small", "rows", torch.bfloat16, lambda: args, (2,))
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x: x)
    found = {row["peer"]: row for row in cuda_peers.beside(accelerator.Cpu(), case, 1)}
    assert found["DeepGEMM"]["status"].startswith("failed: differs from ours by ")
    assert found["torch"]["status"].startswith("failed: TypeError: ")
    assert not any("warm_us" in row for row in found.values())
