"""Pages of a cache as a test wants them: shuffled, apart, with poison around."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from v4npu import _C
from v4npu.reference import pages
from v4npu.reference.formats import round_fp4, round_fp8

# Of the rows that a format holds.
QUANT = {"plain": "none", "fp8_kv": "fp8", "fp4_key": "hadamard_fp4", "fp8_key": "hadamard_fp8"}

KEYS = ("plain", "fp4_key", "fp8_key")  # the formats of index keys


def rounded_keys(keys: Tensor, kind: str) -> Tensor:
    """Keys [..., dim] as rows of this format hold them."""
    if kind == "plain":
        return keys
    return round_fp4(keys) if kind == "fp4_key" else round_fp8(keys, keys.shape[-1])


def spread_scales(cache: Tensor, dim: int) -> None:
    """Gives the rows of fp8_key pages scales that are no powers of two, as other software writes them."""
    blocks, rows = cache.shape[:2]
    scales = torch.linspace(0.3, 0.9, blocks * rows).view(blocks, rows)
    cache.flatten(1)[:, rows * dim :] = scales.view(torch.uint8)


def paged(sequences: Sequence[Tensor], block: int, kind: str = "plain", rope_dim: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [n, dim] of each sequence in pages of `block` rows of the format `kind` (row_format.h).

    Returns:
        The pages, which lie in any order and apart in a pool of 0xFF (NaN), and the block table, -1 behind each
        sequence.
    """
    dim = sequences[0].shape[1]
    row = _C.row_format(kind, dim, rope_dim, sequences[0].itemsize).row
    counts = [-(-len(rows) // block) for rows in sequences]
    pool = torch.full((sum(counts) + 1, block * row + 64), 0xFF, dtype=torch.uint8)
    cache = pool[:, : block * row].unflatten(1, (block, row))
    if kind == "plain":
        cache = pool.view(sequences[0].dtype)[:, : block * dim].unflatten(1, (block, dim))
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(5)).int().split(counts)
    table = torch.full((len(sequences), max(counts) + 1), -1, dtype=torch.int32)
    for b, (rows, blocks) in enumerate(zip(sequences, order, strict=True)):
        table[b, : len(blocks)] = blocks
        pages.write_rows(cache, rows, pages.slots(blocks, torch.arange(len(rows)), block), rope_dim, QUANT[kind])
    return cache, table
