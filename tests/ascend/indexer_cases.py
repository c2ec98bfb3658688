"""What the tests of the indexer's kernels call them with."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.pages import write_rows
from v4npu.testing.cases import Draw


def indexer_case(
    dtype: torch.dtype,
    heads: int,
    dim: int,
    lengths: tuple[tuple[int, int], ...] = ((3, 400), (0, 9), (7, 20)),
    ratio: int = 4,
    official: bool = False,
    block_size: int = 24,
    packed: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, bool]:
    """Arguments of indexer_scores: sequences of (new, earlier) tokens whose keys lie on pages in any order."""
    new, start = (torch.tensor(x, dtype=torch.int32) for x in zip(*lengths, strict=True))
    cu = torch.cat((torch.zeros(1, dtype=torch.int32), new.cumsum(0, dtype=torch.int32)))
    entries = ((new + start) // ratio).tolist()
    pages = [-(-n // block_size) for n in entries]
    order = torch.randperm(sum(pages), generator=torch.Generator().manual_seed(1)).int().split(pages)
    table = torch.full((len(lengths), max(pages) + 1), -1, dtype=torch.int32)
    for row, own in zip(table, order, strict=True):
        row[: len(own)] = own
    tokens, draw = int(cu[-1]), Draw(dtype, 0)
    keys = draw.normal(sum(pages), block_size, dim)
    for sequence, own in enumerate(order):  # what was never written spoils no score
        for page, number in enumerate(own.tolist()):
            keys[number, max(0, entries[sequence] - page * block_size) :] = torch.nan
    if packed:  # "fp4" or "fp8"
        row = dim // 2 + -(-dim // 32) if packed == "fp4" else dim + 4
        plain, keys = keys.flatten(0, 1), torch.zeros(*keys.shape[:2], row, dtype=torch.uint8)
        write_rows(keys, plain, torch.arange(len(plain)), 0, f"hadamard_{packed}")
    return draw.normal(tokens, heads, dim), draw.normal(tokens, heads), keys, table, cu, start, ratio, official
