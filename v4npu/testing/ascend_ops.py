"""The operators that have an Ascend kernel, run on an emulated chip, with the arguments of v4npu.ops."""

from __future__ import annotations

from dataclasses import replace
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor

from v4npu.kernel_cache import kernel_ops
from v4npu.testing.ascend import In, InOut, Out
from v4npu.testing.ascend_indexer import EmulatedIndexer
from v4npu.testing.ascend_products import DTYPES, output, unharmed
from v4npu.testing.compare import argument_names

OPS = tuple(kernel_ops())


class EmulatedOps(EmulatedIndexer):
    """Kernels of OPS on one SKU; `report` is what the last launch did."""

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        n = x.shape[-1]
        mixed = weight is not None and weight.dtype != x.dtype
        out = output(x.shape, x.dtype)
        kind = f"{DTYPES[x.dtype]}_fp32" if mixed else DTYPES[x.dtype]
        self._run(f"rms_norm_{kind}", In(x), In(weight), Out(out), x.numel() // n, n, eps)
        return unharmed(out)

    def rope(
        self, x: Tensor, positions: Tensor, freqs: Tensor, inverse: bool = False, in_place: bool = False
    ) -> Tensor:
        tokens, heads, head_dim = x.shape
        out = output(x.shape, x.dtype)
        if in_place:
            out.copy_(x)
        source, target = (InOut(out), InOut(out)) if in_place else (In(x), Out(out))
        sizes = (tokens, heads, head_dim, 2 * freqs.shape[0])
        self._run(f"rope_{DTYPES[x.dtype]}", source, In(positions), In(freqs), target, *sizes, int(inverse))
        return unharmed(out)

    def qkv_prepare(
        self, q: Tensor, kv: Tensor, weight: Tensor, positions: Tensor, freqs: Tensor, eps: float, official: bool,
        cache: Tensor | None = None, slots: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`cache`, written to, has nothing around its pages but a guard. `report` has the waits of norm and store."""
        (tokens, heads, dim), keep = q.shape, q.shape[2] - 2 * len(freqs)
        kind = "official_bf16" if official and q.dtype == torch.bfloat16 else DTYPES[q.dtype]
        normed = output(q.shape, q.dtype)
        self._run(f"rms_norm_{kind}", In(q), In(None), Out(normed), tokens * heads, dim, eps)
        waits, rotated = self.report.waits, self.rope(unharmed(normed), positions, freqs)
        row = self.rope(self.rms_norm(kv, weight, eps)[:, None], positions, freqs)[:, 0]
        codes = scales = None
        if official:
            codes, scales = self._rounded_kv(row, keep)
        if cache is not None:
            before = self.report
            self._store(row, codes, scales, keep, cache, slots)
            self.report = replace(before, waits=waits + self.report.waits)
        return rotated, row

    def _rounded_kv(self, row: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Codes and scales of rows, which are rounded where they are."""
        codes, scales = self.act_quant(row, 64)
        self._run(f"qkv_prepare_round_{DTYPES[row.dtype]}", In(codes), In(scales), InOut(row), *row.shape, keep)
        unharmed(row)
        return codes, scales

    def _store(
        self, rows: Tensor, codes: Tensor | None, scales: Tensor | None, keep: int, cache: Tensor, slots: Tensor | None
    ) -> None:
        """As StoredRows::store of the launchers."""

        def row_bytes(t: Tensor | None) -> int:
            return 0 if t is None else t.shape[1] * t.itemsize

        (count, dim), packed = rows.shape, cache.dtype == torch.uint8
        kept = keep if packed else 0
        tail, coded = (dim - kept) * rows.itemsize, min(row_bytes(codes), kept)
        padded = cache.shape[2] - coded - tail if packed else 0
        used = min(row_bytes(scales), kept // 64 if kept < dim else padded)
        sizes = (count, row_bytes(rows), tail, row_bytes(codes), coded, row_bytes(scales), used, padded)
        pages = (*cache.shape[:2], cache.stride(0) * cache.itemsize, cache.shape[1:].numel() * cache.itemsize)
        self._run("qkv_prepare_store", *map(In, (rows, codes, scales, slots)), InOut(cache), *sizes, *pages)

    def compressor(
        self, kv: Tensor, score: Tensor, ape: Tensor, weight: Tensor, freqs: Tensor, cu: Tensor, start: Tensor,
        state: Tensor | None, state_slots: Tensor | None, ratio: int, overlap: bool, eps: float, quant: str,
        num_entries: int, out_dtype: torch.dtype, cache: Tensor | None = None, slots: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`state` and `cache` are written to; `report` is of the pooling, with the waits of its own kernels."""
        (tokens, _), dim, kind = kv.shape, len(weight), DTYPES[out_dtype]
        pooled, positions = output((num_entries, dim), out_dtype), output((num_entries,), torch.int64)
        inputs = tuple(map(In, (kv, score, ape, cu, start)))
        windows = (ratio, 1 + overlap)
        rings = (0, 0, 0) if state is None else (state.shape[2], len(state), state.stride(0))
        sizes = (tokens, len(start), num_entries, dim, *windows, *rings)
        self._run(f"compressor_pool_{kind}", *inputs, In(state), In(state_slots), Out(pooled), Out(positions), *sizes)
        report, waits = self.report, list(self.report.waits)
        if state is not None:
            self._run("compressor_state", *inputs, InOut(state), In(state_slots), *sizes[:2], *sizes[3:])
            waits += self.report.waits
        if num_entries == 0:
            self.report = report
            return pooled
        rows = self.rms_norm(unharmed(pooled), weight, eps)
        rows = self.rope(rows[:, None], unharmed(positions), freqs)[:, 0]
        keep, codes, scales = dim, None, None
        if quant == "fp8":
            keep = dim - 2 * len(freqs)
            codes, scales = self._rounded_kv(rows, keep)
        elif quant == "hadamard_fp4":
            transformed, rows = rows, output(rows.shape, out_dtype)
            self._run(f"indexer_query_{kind}", In(transformed), Out(rows), num_entries, dim, dim**-0.5)
            codes, scales = self.fp4_act_quant(unharmed(rows))
        elif quant == "hadamard_fp8":
            rows = self.hadamard(rows)
            codes, narrow = self.act_quant(rows, dim)
            self._run(f"compressor_round_{kind}", In(codes), In(narrow), InOut(rows), num_entries, dim)
            scales = output((num_entries, 1), torch.float32)
            self._run("compressor_scales", In(narrow), Out(scales), num_entries)
            waits += self.report.waits
            unharmed(scales)
        if cache is not None:
            self._store(rows, codes, scales, keep, cache, slots)
        self.report = replace(report, waits=tuple(waits))
        return unharmed(rows)

    def hadamard(self, x: Tensor) -> Tensor:
        rows, n = x.shape
        out = output(x.shape, x.dtype)
        self._run(f"hadamard_{DTYPES[x.dtype]}", In(x), Out(out), rows, n, n**-0.5)
        return unharmed(out)

    def act_quant(self, x: Tensor, block_size: int = 128) -> tuple[Tensor, Tensor]:
        q, scale = self._quantise("act_quant", x, block_size, 1)
        return q.view(torch.float8_e4m3fn), scale.view(torch.float8_e8m0fnu)

    def fp4_act_quant(self, x: Tensor, block_size: int = 32) -> tuple[Tensor, Tensor]:
        q, scale = self._quantise("fp4_act_quant", x, block_size, 2)
        return q.view(torch.int8), scale.view(torch.float8_e8m0fnu)

    def hc_post(self, x: Tensor, streams: Tensor, post: Tensor, comb: Tensor, in_place: bool = False) -> Tensor:
        out = output(streams.shape, streams.dtype)
        if in_place:
            out.copy_(streams)
        source, target = (InOut(out), InOut(out)) if in_place else (In(streams), Out(out))
        self._run(f"hc_post_{DTYPES[x.dtype]}", In(x), source, In(post), In(comb), target, *streams.shape)
        return unharmed(out)

    def hc_pre(
        self, streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, hc_eps: float, iters: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, m, d = streams.shape
        y, post = output((tokens, d), streams.dtype), output((tokens, m), torch.float32)
        comb = output((tokens, m, m), torch.float32)
        inputs, outputs = (In(streams), In(fn), In(scale), In(base)), (Out(y), Out(post), Out(comb))
        self._run(f"hc_pre_{DTYPES[streams.dtype]}", *inputs, *outputs, tokens, m, d, norm_eps, hc_eps, iters)
        return unharmed(y), unharmed(post), unharmed(comb)

    def hc_head(
        self, streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, hc_eps: float
    ) -> Tensor:
        tokens, m, d = streams.shape
        y = output((tokens, d), streams.dtype)
        inputs = (In(streams), In(fn), In(scale), In(base))
        self._run(f"hc_head_{DTYPES[streams.dtype]}", *inputs, Out(y), tokens, m, d, norm_eps, hc_eps)
        return unharmed(y)

    def indexer_query(self, q: Tensor, positions: Tensor, freqs: Tensor, official: bool) -> Tensor:
        rotated = self.rope(q, positions, freqs)
        if not official:
            return rotated
        out = output(q.shape, q.dtype)
        tokens, heads, n = q.shape
        self._run(f"indexer_query_{DTYPES[q.dtype]}", In(rotated), Out(out), tokens * heads, n, n**-0.5)
        return unharmed(out)

    def gate(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, topk: int, route_scale: float
    ) -> tuple[Tensor, Tensor]:
        tokens, hidden = x.shape
        indices, weights = output((tokens, topk), torch.int32), output((tokens, topk), torch.float32)
        kind = DTYPES[x.dtype] if weight.dtype == x.dtype else f"{DTYPES[x.dtype]}_fp32"
        inputs, outputs = (In(x), In(weight), In(bias)), (Out(indices), Out(weights))
        self._run(f"gate_{kind}", *inputs, *outputs, tokens, hidden, weight.shape[0], topk, route_scale)
        return unharmed(indices), unharmed(weights)

    def hash_gate(
        self, x: Tensor, weight: Tensor, tid2eid: Tensor, input_ids: Tensor, route_scale: float
    ) -> tuple[Tensor, Tensor]:
        (tokens, hidden), (vocab, topk) = x.shape, tid2eid.shape
        indices, weights = output((tokens, topk), torch.int32), output((tokens, topk), torch.float32)
        kind = DTYPES[x.dtype] if weight.dtype == x.dtype else f"{DTYPES[x.dtype]}_fp32"
        inputs, outputs = (In(x), In(weight), In(tid2eid), In(input_ids)), (Out(indices), Out(weights))
        sizes = (tokens, hidden, weight.shape[0], vocab, topk)
        self._run(f"hash_gate_{kind}", *inputs, *outputs, *sizes, route_scale)
        return unharmed(indices), unharmed(weights)

    def swiglu(self, gate: Tensor, up: Tensor, weights: Tensor | None, limit: float) -> Tensor:
        out = output(gate.shape, gate.dtype)
        self._run(f"swiglu_{DTYPES[gate.dtype]}", In(gate), In(up), In(weights), Out(out), *gate.shape, limit)
        return unharmed(out)

    def moe_experts(
        self, x: Tensor, topk_indices: Tensor, topk_weights: Tensor, w1: Tensor, w1_scale: Tensor | None, w3: Tensor,
        w3_scale: Tensor | None, w2: Tensor, w2_scale: Tensor | None, limit: float, official: bool,
        shared: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`report` is that of the kernel with most buffers, with the waits of all that only this operator has."""
        (tokens, hidden), topk, experts = x.shape, topk_indices.shape[1], w1.shape[0]
        quantised = official and w1_scale is not None
        operand = self._expanded(*self.act_quant(x)) if quantised else x
        counts, starts = output((self.num_blocks, experts), torch.int32), output((experts + 1,), torch.int32)
        places, weights = output(topk_indices.shape, torch.int32), output((tokens * topk,), torch.float32)
        rows = output((tokens * topk, hidden), operand.dtype)
        out = output((tokens, hidden), torch.float32 if shared is None else x.dtype)
        self._run("moe_experts_count", In(topk_indices), Out(counts), tokens, topk, experts)
        waits = self.report.waits
        inputs, outputs = (operand, topk_indices, topk_weights, unharmed(counts)), (starts, places, weights, rows)
        sizes = (tokens, hidden, topk, experts)
        self._run(f"moe_experts_route_{DTYPES[operand.dtype]}", *map(In, inputs), *map(Out, outputs), *sizes)
        route = self.report
        starts, places, weights, rows = map(unharmed, outputs)
        gate, up = (self.expert_product(rows, starts, *w, x.dtype) for w in ((w1, w1_scale), (w3, w3_scale)))
        width = w1.shape[1]
        between = self.swiglu(gate[:, :width].contiguous(), up[:, :width].contiguous(), weights, limit)
        between = self._expanded(*self.act_quant(between)) if quantised else between
        y = self.expert_product(between, starts, w2, w2_scale, x.dtype)
        sizes = (tokens, hidden, y.shape[1], topk)
        self._run(f"moe_experts_sum_{DTYPES[x.dtype]}", In(y), In(places), In(shared), Out(out), *sizes)
        self.report = replace(route, waits=waits + route.waits + self.report.waits)
        return unharmed(out)

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
        plan = output((1024,), torch.int32)
        lengths = (tokens, seqs, window, sizes[1] * sizes[3], topk, ratio, -(-heads // tile), blocks)
        self._run(f"{op}_plan", In(cu), In(start), Out(plan), *lengths, num_blocks=1)
        waits = self.report.waits
        out, workspace = output(q.shape, q.dtype), output((blocks, 2, tile * (128 + dim) + 64 * dim), torch.float32)
        inputs = (q, *windows, *entries, picks, cu, start, given["attn_sink"], unharmed(plan))
        shape = (tokens, seqs, heads, dim, *window_sizes, window, *sizes, given["rope_dim"], topk, ratio, tile)
        numbers = (*shape, given["softmax_scale"], int(given["official"]))
        kind = "packed" if given["window_kv"].dtype == torch.uint8 else DTYPES[q.dtype]
        self._run(f"{op}_{kind}", *map(In, inputs), Out(workspace), Out(out), *numbers)
        unharmed(workspace)
        self.report = replace(self.report, waits=waits + self.report.waits)
        return unharmed(out)

    window_attention = partialmethod(_attention, "window_attention")
    csa_attention = partialmethod(_attention, "csa_attention")
    hca_attention = partialmethod(_attention, "hca_attention")

    def _quantise(self, op: str, x: Tensor, block_size: int, per_byte: int) -> tuple[Tensor, Tensor]:
        rows, n = x.shape
        q = output((rows, n // per_byte), torch.uint8)
        scale = output((rows, -(-n // block_size)), torch.uint8)
        self._run(f"{op}_{DTYPES[x.dtype]}", In(x), Out(q), Out(scale), rows, n, block_size)
        return unharmed(q), unharmed(scale)
