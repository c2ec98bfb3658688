"""The operators that have an Ascend kernel, run on an emulated chip, with the arguments of v4npu.ops."""

from __future__ import annotations

from dataclasses import replace
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor

from v4npu.testing.ascend import In, InOut, Kernels, Out, Report
from v4npu.testing.compare import argument_names

OPS = (
    "rms_norm",
    "rope",
    "hadamard",
    "act_quant",
    "fp4_act_quant",
    "hc_pre",
    "hc_post",
    "hc_head",
    "indexer_query",
    "gate",
    "hash_gate",
    "swiglu",
    "linear",
    "fp8_linear",
    "fp4_linear",
    "grouped_linear",
    "indexer_scores",
    "window_attention",
    "csa_attention",
    "hca_attention",
)
GUARD = 64  # bytes before and behind every output
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class EmulatedOps:
    """Kernels of OPS on one SKU; `report` is what the last launch did."""

    report: Report

    def __init__(
        self, kernels: Kernels, sku: str, num_blocks: int = 3, ignored_wait: str = "", suffix: str = ""
    ) -> None:
        self.kernels, self.sku, self.num_blocks = kernels, sku, num_blocks
        self.ignored_wait, self.suffix = ignored_wait, suffix

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        n = x.shape[-1]
        mixed = weight is not None and weight.dtype != x.dtype
        out = _output(x.shape, x.dtype)
        kind = f"{DTYPES[x.dtype]}_fp32" if mixed else DTYPES[x.dtype]
        self._run(f"rms_norm_{kind}", In(x), In(weight), Out(out), x.numel() // n, n, eps)
        return _unharmed(out)

    def rope(
        self, x: Tensor, positions: Tensor, freqs: Tensor, inverse: bool = False, in_place: bool = False
    ) -> Tensor:
        tokens, heads, head_dim = x.shape
        out = _output(x.shape, x.dtype)
        if in_place:
            out.copy_(x)
        source, target = (InOut(out), InOut(out)) if in_place else (In(x), Out(out))
        sizes = (tokens, heads, head_dim, 2 * freqs.shape[0])
        self._run(f"rope_{DTYPES[x.dtype]}", source, In(positions), In(freqs), target, *sizes, int(inverse))
        return _unharmed(out)

    def hadamard(self, x: Tensor) -> Tensor:
        rows, n = x.shape
        out = _output(x.shape, x.dtype)
        self._run(f"hadamard_{DTYPES[x.dtype]}", In(x), Out(out), rows, n, n**-0.5)
        return _unharmed(out)

    def act_quant(self, x: Tensor, block_size: int = 128) -> tuple[Tensor, Tensor]:
        q, scale = self._quantise("act_quant", x, block_size, 1)
        return q.view(torch.float8_e4m3fn), scale.view(torch.float8_e8m0fnu)

    def fp4_act_quant(self, x: Tensor, block_size: int = 32) -> tuple[Tensor, Tensor]:
        q, scale = self._quantise("fp4_act_quant", x, block_size, 2)
        return q.view(torch.int8), scale.view(torch.float8_e8m0fnu)

    def hc_post(self, x: Tensor, streams: Tensor, post: Tensor, comb: Tensor, in_place: bool = False) -> Tensor:
        out = _output(streams.shape, streams.dtype)
        if in_place:
            out.copy_(streams)
        source, target = (InOut(out), InOut(out)) if in_place else (In(streams), Out(out))
        self._run(f"hc_post_{DTYPES[x.dtype]}", In(x), source, In(post), In(comb), target, *streams.shape)
        return _unharmed(out)

    def hc_pre(
        self, streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, hc_eps: float, iters: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, m, d = streams.shape
        y, post = _output((tokens, d), streams.dtype), _output((tokens, m), torch.float32)
        comb = _output((tokens, m, m), torch.float32)
        inputs, outputs = (In(streams), In(fn), In(scale), In(base)), (Out(y), Out(post), Out(comb))
        self._run(f"hc_pre_{DTYPES[streams.dtype]}", *inputs, *outputs, tokens, m, d, norm_eps, hc_eps, iters)
        return _unharmed(y), _unharmed(post), _unharmed(comb)

    def hc_head(
        self, streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, hc_eps: float
    ) -> Tensor:
        tokens, m, d = streams.shape
        y = _output((tokens, d), streams.dtype)
        inputs = (In(streams), In(fn), In(scale), In(base))
        self._run(f"hc_head_{DTYPES[streams.dtype]}", *inputs, Out(y), tokens, m, d, norm_eps, hc_eps)
        return _unharmed(y)

    def indexer_query(self, q: Tensor, positions: Tensor, freqs: Tensor, official: bool) -> Tensor:
        rotated = self.rope(q, positions, freqs)
        if not official:
            return rotated
        out = _output(q.shape, q.dtype)
        tokens, heads, n = q.shape
        self._run(f"indexer_query_{DTYPES[q.dtype]}", In(rotated), Out(out), tokens * heads, n, n**-0.5)
        return _unharmed(out)

    def gate(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, topk: int, route_scale: float
    ) -> tuple[Tensor, Tensor]:
        tokens, hidden = x.shape
        indices, weights = _output((tokens, topk), torch.int32), _output((tokens, topk), torch.float32)
        kind = DTYPES[x.dtype] if weight.dtype == x.dtype else f"{DTYPES[x.dtype]}_fp32"
        inputs, outputs = (In(x), In(weight), In(bias)), (Out(indices), Out(weights))
        self._run(f"gate_{kind}", *inputs, *outputs, tokens, hidden, weight.shape[0], topk, route_scale)
        return _unharmed(indices), _unharmed(weights)

    def hash_gate(
        self, x: Tensor, weight: Tensor, tid2eid: Tensor, input_ids: Tensor, route_scale: float
    ) -> tuple[Tensor, Tensor]:
        (tokens, hidden), (vocab, topk) = x.shape, tid2eid.shape
        indices, weights = _output((tokens, topk), torch.int32), _output((tokens, topk), torch.float32)
        kind = DTYPES[x.dtype] if weight.dtype == x.dtype else f"{DTYPES[x.dtype]}_fp32"
        inputs, outputs = (In(x), In(weight), In(tid2eid), In(input_ids)), (Out(indices), Out(weights))
        sizes = (tokens, hidden, weight.shape[0], vocab, topk)
        self._run(f"hash_gate_{kind}", *inputs, *outputs, *sizes, route_scale)
        return _unharmed(indices), _unharmed(weights)

    def swiglu(self, gate: Tensor, up: Tensor, weights: Tensor | None, limit: float) -> Tensor:
        out = _output(gate.shape, gate.dtype)
        self._run(f"swiglu_{DTYPES[gate.dtype]}", In(gate), In(up), In(weights), Out(out), *gate.shape, limit)
        return _unharmed(out)

    def linear(
        self, x: Tensor, weight: Tensor, out_dtype: torch.dtype, tile_rows: int = 32, tile_columns: int = 32
    ) -> Tensor:
        return self._product("linear", x[:, None], weight, None, out_dtype, (tile_rows, tile_columns))[:, 0]

    def fp8_linear(
        self, x: Tensor, x_scale: Tensor | None, weight: Tensor, scale: Tensor, out_dtype: torch.dtype
    ) -> Tensor:
        if (
            x_scale is not None
            and f"fp8_linear_mx_{DTYPES[out_dtype]}" in self.kernels.entries
            and x.shape[1] % 64 == 0
        ):
            return self._mx_product(x, x_scale, weight, scale, out_dtype)
        return self._product("fp8_linear", self._expanded(x, x_scale)[:, None], weight, scale, out_dtype)[:, 0]

    def fp4_linear(
        self, x: Tensor, x_scale: Tensor | None, weight: Tensor, scale: Tensor, out_dtype: torch.dtype
    ) -> Tensor:
        return self._product("fp4_linear", self._expanded(x, x_scale)[:, None], weight, scale, out_dtype)[:, 0]

    def grouped_linear(self, x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        op = "grouped_linear" if scale is None else "grouped_linear_fp8"
        return self._product(op, x, weight, scale, x.dtype)

    def _mx_product(self, x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, out_dtype: torch.dtype) -> Tensor:
        (tokens, k), rows = x.shape, weight.shape[0]
        spread = []
        for kind, scales, count in (("x", x_scale, tokens), ("weight", scale, rows)):
            spread.append(_output((count, k // 32), torch.uint8))
            self._run(f"fp8_linear_{kind}_scales", In(scales), Out(spread[-1]), count, k)
        out = _output((tokens, -(-rows // 16) * 16), out_dtype)
        operands = (In(x), In(_unharmed(spread[0])), In(weight), In(_unharmed(spread[1])), Out(out))
        self._run(f"fp8_linear_mx_{DTYPES[out_dtype]}", *operands, tokens, rows, k, 1, 32, 32)
        return _unharmed(out)[:, :rows].contiguous()

    def _expanded(self, x: Tensor, x_scale: Tensor | None) -> Tensor:
        if x_scale is None:
            return x
        out = _output(x.shape, torch.bfloat16)
        self._run("fp8_linear_x", In(x), In(x_scale), Out(out), *x.shape)
        return _unharmed(out)

    def _product(
        self,
        op: str,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        out_dtype: torch.dtype,
        tile: tuple[int, int] = (32, 32),
    ) -> Tensor:
        tokens, groups, k = x.shape
        rows = weight.shape[0] // groups
        out = _output((tokens, groups, -(-rows // 16) * 16), out_dtype)
        kind = DTYPES[x.dtype] if out_dtype == x.dtype else f"{DTYPES[x.dtype]}_{DTYPES[out_dtype]}"
        slots = _output((self.num_blocks, 2 * 256 * (512 if self.kernels.arch == 2201 else 256)), torch.uint8)
        more = () if scale is None else (In(scale), InOut(slots))
        self._run(f"{op}_{kind}", In(x), In(weight), *more, Out(out), tokens, rows, k, groups, *tile)
        return _unharmed(out)[..., :rows].contiguous()

    def indexer_plan(self, cu: Tensor, start: Tensor, tokens: int, ratio: int, width: int) -> Tensor:
        """The plan for num_blocks blocks, as int32[1024]."""
        plan, blocks = _output((1024,), torch.int32), self.num_blocks
        arguments = (In(cu), In(start), Out(plan), tokens, len(start), ratio, width, blocks)
        self._run("indexer_scores_plan", *arguments, num_blocks=1)
        return _unharmed(plan)

    def indexer_scores(
        self, q: Tensor, weights: Tensor, keys: Tensor, block_table: Tensor, cu: Tensor, start: Tensor, ratio: int,
        official: bool,
    ) -> Tensor:  # fmt: skip
        (tokens, heads, dim), (blocks, block_size, _), (seqs, max_blocks) = q.shape, keys.shape, block_table.shape
        plan = self.indexer_plan(cu, start, tokens, ratio, max_blocks * block_size)
        waits = self.report.waits
        out, workspace = (
            _output((tokens, max_blocks * block_size), torch.float32),
            torch.empty(self.num_blocks, 2, 64, 64),
        )
        inputs, outputs = (q, weights, keys, block_table, cu, start, plan), (Out(workspace), Out(out))
        sizes = (tokens, heads, dim, blocks, block_size, keys.stride(0), max_blocks, seqs, ratio, int(official))
        self._run(f"indexer_scores_{DTYPES[q.dtype]}", *map(In, inputs), *outputs, *sizes)
        self.report = replace(self.report, waits=waits + self.report.waits)
        return _unharmed(out)

    def _attention(self, op: str, *args: Any, tile: int = 32) -> Tensor:
        """All but step 8, which is rope's kernel."""
        given = dict(zip(argument_names(op), args, strict=False))
        q, cu, start, window = (given[name] for name in ("q", "cu_seqlens_q", "start_pos", "window"))
        picks, ratio = given.get("topk_indices"), given.get("ratio", 0)
        (tokens, heads, dim), seqs, blocks = q.shape, len(start), self.num_blocks

        def paged(pages: str, table: str) -> tuple[tuple[Tensor | None, Tensor | None], tuple[int, int, int, int]]:
            if pages not in given:
                return (None, None), (0, 0, 0, 0)
            kv, places = given[pages], given[table]
            return (kv, places), (kv.shape[0], kv.shape[1], kv.stride(0), places.shape[1])

        windows, window_sizes = paged("window_kv", "window_table")
        entries, sizes = paged("compressed_kv", "block_table")
        topk = 0 if picks is None else picks.shape[1]
        plan = _output((1024,), torch.int32)
        lengths = (tokens, seqs, window, sizes[1] * sizes[3], topk, ratio, -(-heads // tile), blocks)
        self._run(f"{op}_plan", In(cu), In(start), Out(plan), *lengths, num_blocks=1)
        waits = self.report.waits
        out, workspace = _output(q.shape, q.dtype), _output((blocks, 2, tile * (128 + dim) + 64 * dim), torch.float32)
        inputs = (q, *windows, *entries, picks, cu, start, given["attn_sink"], _unharmed(plan))
        shape = (tokens, seqs, heads, dim, *window_sizes, window, *sizes, given["rope_dim"], topk, ratio, tile)
        numbers = (*shape, given["softmax_scale"], int(given["official"]))
        kind = "packed" if given["window_kv"].dtype == torch.uint8 else DTYPES[q.dtype]
        self._run(f"{op}_{kind}", *map(In, inputs), Out(workspace), Out(out), *numbers)
        _unharmed(workspace)
        self.report = replace(self.report, waits=waits + self.report.waits)
        return _unharmed(out)

    window_attention = partialmethod(_attention, "window_attention")
    csa_attention = partialmethod(_attention, "csa_attention")
    hca_attention = partialmethod(_attention, "hca_attention")

    def _quantise(self, op: str, x: Tensor, block_size: int, per_byte: int) -> tuple[Tensor, Tensor]:
        rows, n = x.shape
        q = _output((rows, n // per_byte), torch.uint8)
        scale = _output((rows, -(-n // block_size)), torch.uint8)
        self._run(f"{op}_{DTYPES[x.dtype]}", In(x), Out(q), Out(scale), rows, n, block_size)
        return _unharmed(q), _unharmed(scale)

    def _run(self, name: str, *arguments: In | Out | InOut | int | float, num_blocks: int = 0) -> None:
        self.report = self.kernels.launch(
            name + self.suffix, self.sku, num_blocks or self.num_blocks, *arguments, ignored_wait=self.ignored_wait
        )


def _output(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of NaNs (all bits set) with guard words around it."""
    size = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    memory = torch.full((size + 2 * GUARD,), 0xA5, dtype=torch.uint8)
    inside = memory[GUARD : GUARD + size]
    inside.fill_(0xFF)
    return inside.view(dtype).view(shape)


def _unharmed(out: Tensor) -> Tensor:
    memory = torch.empty(0, dtype=torch.uint8).set_(out.untyped_storage())
    guards = torch.cat((memory[:GUARD], memory[-GUARD:]))
    if not bool((guards == 0xA5).all()):
        raise AssertionError("a kernel wrote beside its output")
    return out
