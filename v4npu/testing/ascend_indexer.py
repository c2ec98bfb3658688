"""Index scores and picks on an emulated chip, with the arguments of v4npu.ops."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from v4npu.testing.ascend import In, Out
from v4npu.testing.ascend_products import DTYPES, EmulatedProducts, output, unharmed


class EmulatedIndexer(EmulatedProducts):
    """Kernels of indexer_scores and indexer_topk on one SKU; `report` is what the last launch did."""

    def indexer_plan(self, cu: Tensor, start: Tensor, tokens: int, ratio: int, width: int, first: int = 0) -> Tensor:
        """The plan for num_blocks blocks, as int32[1024]."""
        plan, blocks = output((1024,), torch.int32), self.num_blocks
        arguments = (In(cu), In(start), Out(plan), tokens, len(start), ratio, width, first, blocks)
        self._run("indexer_scores_plan", *arguments, num_blocks=1)
        return unharmed(plan)

    def indexer_scores(
        self, q: Tensor, weights: Tensor, keys: Tensor, block_table: Tensor, cu: Tensor, start: Tensor, ratio: int,
        official: bool, first: int = 0, hides: bool = True,
    ) -> Tensor:  # fmt: skip
        """Of the tokens of q and weights, the call's from `first` on."""
        (tokens, heads, dim), (blocks, block_size, _), (seqs, max_blocks) = q.shape, keys.shape, block_table.shape
        plan = self.indexer_plan(cu, start, tokens, ratio, max_blocks * block_size, first)
        waits = self.report.waits
        out, workspace = (
            output((tokens, max_blocks * block_size), torch.float32),
            torch.empty(self.num_blocks, 2, 64 * 64 + (64 * 64 if keys.dtype == torch.uint8 else 0)),
        )
        inputs, outputs = (q, weights, keys, block_table, cu, start, plan), (Out(workspace), Out(out))
        sizes = (tokens, heads, dim, blocks, block_size, keys.stride(0), max_blocks, seqs, ratio, first)
        packed = {dim // 2 + -(-dim // 32): "fp4", dim + 4: "fp8"}
        kind = packed[keys.shape[2]] if keys.dtype == torch.uint8 else DTYPES[q.dtype]
        self._run(f"indexer_scores_{kind}", *map(In, inputs), *outputs, *sizes, int(hides), int(official))
        self.report = replace(self.report, waits=waits + self.report.waits)
        return unharmed(out)

    def indexer_topk(
        self, q: Tensor, weights: Tensor, keys: Tensor, block_table: Tensor, cu: Tensor, start: Tensor, ratio: int,
        topk: int, official: bool, at_a_time: int = 5, parts: int = 2,
    ) -> Tensor:  # fmt: skip
        """`report` is that of the selection, with the waits of both of its kernels."""
        found = []
        for first in range(0, len(q), at_a_time):
            some = slice(first, first + at_a_time)
            where = (keys, block_table, cu, start, ratio, official, first)
            scores = self.indexer_scores(q[some], weights[some], *where, hides=False)
            found.append(self.indexer_select(scores, cu, start, ratio, topk, first, parts))
        return torch.cat(found) if found else torch.empty(0, topk, dtype=torch.int32)

    def indexer_select(
        self, scores: Tensor, cu: Tensor, start: Tensor, ratio: int, topk: int, first: int = 0, parts: int = 1
    ) -> Tensor:
        """The picks among the visible ones of given scores."""
        tokens, width = scores.shape
        out = output((tokens, topk), torch.int32)
        lists = output((tokens, parts, -(-topk // 32) * 32, 2), torch.float32)
        lengths, sizes = (In(cu), In(start)), (tokens, len(start), ratio, width, first, topk, parts)
        self._run("indexer_topk_select", In(scores), *lengths, Out(lists), Out(out), *sizes)
        if parts > 1:
            select = self.report
            self._run("indexer_topk_merge", In(scores), In(unharmed(lists)), *lengths, Out(out), *sizes)
            self.report = replace(select, waits=select.waits + self.report.waits)
        return unharmed(out)
