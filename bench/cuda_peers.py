"""Other projects' kernels beside ours, in the same run, where they can be imported: bench/cuda_device.py's `peers`.

Each is called as its own page documents it, on the very arguments that our operator got, converted where its formats
are others (before the clock starts). A peer whose result is not ours to PEER_DIFF gets no time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from accelerator import Device, medians
from cuda_ops import Case, run
from torch import Tensor

from v4npu.reference.pages import read_keys, slots
from v4npu.reference.rope import rope
from v4npu.testing.bench import first
from v4npu.testing.compare import argument_names, calc_diff

PEER_DIFF = 1e-3  # 1 - 2 sum(xy) / sum(x^2 + y^2), as the peers' own tests have it
Given = dict[str, Any]  # our arguments by name, on the device
Call = Callable[[], Tensor]


@dataclass
class Peer:
    """A kernel of a project that `modules` lead to, the first that can be imported."""

    project: str
    modules: tuple[str, ...]
    op: str
    prepare: Callable[[ModuleType, Given], Call]
    decode_only: bool = False

    def module(self) -> ModuleType | None:
        for name in self.modules:
            try:
                return importlib.import_module(name)
            except Exception:  # absent, or a wheel for another torch, driver or Python: all of them mean "not here"
                continue
        return None


def _scales(scale: Tensor) -> Tensor:
    """e8m0 as the float32 that kernels of sm_90 take."""
    return scale.float().contiguous()


def _flash_mla(module: ModuleType, g: Given) -> Call:
    """Sparse decode over pages of 584-byte rows, which are ours but for the distance from one page to the next."""

    def pages(ours: Tensor) -> Tensor:
        count, rows, row = ours.shape
        stride = -(-rows * row // 576) * 576
        padded = torch.zeros(count, stride, dtype=torch.uint8, device=ours.device)
        padded[:, : rows * row] = ours.reshape(count, -1)
        whole = padded.as_strided((count, rows, 1, row), (stride, row, row, 1))
        return whole.view(torch.float8_e4m3fn)

    def listed(rows: list[Tensor], table: Tensor, size: int) -> Tensor:
        found = [torch.where(r < 0, -1, slots(t, r.clamp_min(0), size)) for r, t in zip(rows, table, strict=True)]
        longest = -(-max(len(f) for f in found) // 64) * 64
        out = torch.full((len(found), 1, longest), -1, dtype=torch.int32, device=table.device)
        for b, f in enumerate(found):
            out[b, 0, : len(f)] = f.int()
        return out

    ends = [start + 1 for start in g["start_pos"].tolist()]
    here = g["q"].device
    window = [torch.arange(max(0, end - g["window"]), end, device=here) for end in ends]
    if "topk_indices" in g:
        entries = list(g["topk_indices"].long())
    else:
        entries = [torch.arange(end // g["ratio"], device=here) for end in ends]
    kept: dict[str, Any] = {
        "indices": listed(window, g["window_table"], g["window_kv"].shape[1]),
        "extra_k_cache": pages(g["compressed_kv"]),
        "extra_indices_in_kvcache": listed(entries, g["block_table"], g["compressed_kv"].shape[1]),
        "attn_sink": g["attn_sink"],
        "softmax_scale": g["softmax_scale"],
        "is_fp8_kvcache": True,
    }
    q, cache, plan = g["q"].unsqueeze(1), pages(g["window_kv"]), module.get_mla_metadata()[0]

    def call() -> Tensor:
        return module.flash_mla_with_kvcache(q, cache, None, None, q.shape[-1], plan, **kept)[0].squeeze(1)

    call.result = lambda: rope(call(), g["positions"], g["freqs"], inverse=True)  # type: ignore[attr-defined]
    return call


def _paged_logits(module: ModuleType, g: Given) -> Call:
    """Scores from 132-byte FP8 rows in pages of 64; our small integers have the same value in e4m3."""
    batch, _, dim = g["q"].shape
    table, size, width = g["block_table"], g["keys"].shape[1], 64
    seen = ((g["start_pos"] + 1) // g["ratio"]).int()
    longest = -(-int(seen.max()) // width) * width
    rows = torch.arange(min(longest, table.shape[1] * size), device=table.device)
    keys = torch.zeros(batch, longest, dim, device=table.device)
    for b in range(batch):
        keys[b, : len(rows)] = read_keys(g["keys"], slots(table[b], rows, size), dim).float()
    top = keys.abs().amax(-1, keepdim=True).clamp_min(1.0).log2().floor().exp2()  # e2m1 times e8m0 is exact below it
    blocks = batch * longest // width
    cache = torch.empty(blocks, width * (dim + 4), dtype=torch.uint8, device=table.device)
    cache[:, : width * dim] = (keys / top).to(torch.float8_e4m3fn).view(blocks, -1).view(torch.uint8)
    cache[:, width * dim :] = top.view(blocks, width).contiguous().view(torch.uint8)
    cache = cache.view(blocks, width, 1, dim + 4)
    own = torch.arange(blocks, dtype=torch.int32, device=table.device).view(batch, -1)
    q, weights = g["q"].unsqueeze(1).to(torch.float8_e4m3fn), g["weights"].float()
    lengths = seen.view(batch, 1)
    plan = module.get_paged_mqa_logits_metadata(lengths, width, module.get_num_sms())
    hidden = torch.arange(longest, device=table.device) >= lengths
    scores = g["weights"].new_full((batch, table.shape[1] * size), -torch.inf, dtype=torch.float32)

    def call() -> Tensor:
        return module.fp8_paged_mqa_logits(q, cache, weights, lengths, own, plan, longest, clean_logits=False)

    def ours() -> Tensor:
        found = call()[:, : len(rows)].masked_fill(hidden[:, : len(rows)], -torch.inf)
        return torch.cat((found, scores[:, found.shape[1] :]), 1)

    call.result = ours  # type: ignore[attr-defined]
    return call


def _fp8_gemm(module: ModuleType, g: Given) -> Call:
    x, weight = (g["x"], _scales(g["x_scale"])), (g["weight"], _scales(g["weight_scale"]))
    out = torch.empty(len(g["x"]), len(g["weight"]), dtype=torch.bfloat16, device=g["x"].device)

    def call() -> Tensor:
        module.fp8_gemm_nt(x, weight, out)
        return out

    return call


def _bf16_gemm(module: ModuleType, g: Given) -> Call:
    out = torch.empty(len(g["x"]), len(g["weight"]), dtype=torch.bfloat16, device=g["x"].device)

    def call() -> Tensor:
        module.bf16_gemm_nt(g["x"], g["weight"], out)
        return out

    return call


def _vllm_gate(_: ModuleType, g: Given) -> Call:
    """torch's router GEMM, then vLLM's choice among its float32 logits."""
    shape, here, weight = (len(g["x"]), g["topk"]), g["x"].device, g["weight"].float()
    weights = torch.empty(shape, device=here)
    indices, source = (torch.empty(shape, dtype=torch.int32, device=here) for _ in range(2))

    def call() -> Tensor:
        logits = g["x"].float() @ weight.T
        choose = torch.ops._moe_C.topk_softplus_sqrt
        choose(weights, indices, source, logits, True, g["route_scale"], g["bias"], None, None)
        return weights

    call.result = lambda: call().gather(1, indices.argsort(1))  # type: ignore[attr-defined]
    return call


FLASH_MLA = ("flash_mla", "vllm.v1.attention.ops.flashmla", "sgl_kernel.flash_mla")
DEEP_GEMM = ("deep_gemm", "vllm.third_party.deep_gemm")
PEERS = (
    Peer("torch", ("torch",), "linear", lambda m, g: lambda: m.nn.functional.linear(g["x"], g["weight"])),
    Peer("torch", ("torch",), "rms_norm",
         lambda m, g: lambda: m.nn.functional.rms_norm(g["x"], g["x"].shape[-1:], g["weight"], g["eps"])),
    Peer("DeepGEMM", DEEP_GEMM, "linear", _bf16_gemm),
    Peer("DeepGEMM", DEEP_GEMM, "fp8_linear", _fp8_gemm),
    Peer("DeepGEMM", DEEP_GEMM, "indexer_scores", _paged_logits, decode_only=True),
    Peer("FlashMLA", FLASH_MLA, "csa_attention", _flash_mla, decode_only=True),
    Peer("FlashMLA", FLASH_MLA, "hca_attention", _flash_mla, decode_only=True),
    Peer("FlashInfer", ("flashinfer.norm",), "rms_norm", lambda m, g: lambda: m.rmsnorm(g["x"], g["weight"], g["eps"])),
    Peer("fast-hadamard-transform", ("fast_hadamard_transform",), "hadamard",
         lambda m, g: lambda: m.hadamard_transform(g["x"], g["x"].shape[-1] ** -0.5)),
    Peer("vLLM", ("vllm._moe_C_stable_libtorch", "vllm._moe_C"), "gate", _vllm_gate),
)  # fmt: skip


def absent() -> Iterator[dict[str, Any]]:
    """A row of each project that is not here."""
    for project in dict.fromkeys(p.project for p in PEERS):
        if not any(p.module() for p in PEERS if p.project == project):
            yield {"op": "", "case": "of our operators", "peer": project, "status": "not installed"}


@torch.inference_mode()
def beside(device: Device, case: Case, repeats: int) -> Iterator[dict[str, Any]]:
    """Rows of every peer of the case's operator that is here."""
    for peer in (p for p in PEERS if p.op == case.op):
        module = peer.module()
        if module is None or (peer.decode_only and not case.name.startswith("decode")):
            continue
        for tokens in case.tokens:
            row, args = case.row(tokens) | {"peer": peer.project}, device.to(first(case.op, case.args, tokens))
            try:
                row |= _measured(device, peer, module, case.op, args, repeats)
            except Exception as error:  # another version's signature, a shape that it does not take
                row["status"] = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            yield row


def _measured(
    device: Device, peer: Peer, module: ModuleType, op: str, args: tuple[Any, ...], repeats: int
) -> dict[str, Any]:
    given = dict(zip(argument_names(op), args, strict=False))
    call = peer.prepare(module, given)
    got, results = getattr(call, "result", call)(), run(device, op, args)
    ours = results[0]
    if op == "gate":
        ours = results[1].gather(1, results[0].argsort(1))
    if got.shape != ours.shape or not torch.equal(got.isfinite(), ours.isfinite()):
        return {"status": "failed: another result than ours"}
    seen = ours.isfinite()
    diff = calc_diff(got[seen], ours[seen])
    if not diff <= PEER_DIFF:
        return {"status": f"failed: differs from ours by {diff:.1e}", "diff": diff}
    warm, cold = medians(device, call, repeats)
    return {"status": "ok", "diff": diff, "warm_us": warm, "cold_us": cold}
