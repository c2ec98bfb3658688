"""Rows in the pages of a cache: where they lie, how packed ones are stored (csrc/include/v4npu/row_format.h).

A slot is block * block_size + row. A packed page (uint8) holds the payloads of its rows, then their scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.reference.formats import act_quant, dequantise_fp4, dequantise_rows, e8m0_to_float, fp4_act_quant

KV_BLOCK = 64  # elements per FP8 scale of a KV row
FLOAT = 4  # bytes of the scale of an FP8 key


def slots(table: Tensor, rows: Tensor, block_size: int) -> Tensor:
    """Slots of rows (int64, any shape) of the sequence whose block table int32 [max_blocks] this is."""
    if rows.numel() and int(rows.max()) >= table.shape[0] * block_size:
        raise ValueError(f"v4npu: a block table of {table.shape[0]} x {block_size} rows has no row {int(rows.max())}")
    block = table[rows // block_size].long()
    if rows.numel() and int(block.min()) < 0:
        raise ValueError(f"v4npu: a block table names block {int(block.min())} where rows are needed")
    return block * block_size + rows % block_size


def _bytes(cache: Tensor, at: Tensor, payload: int, scales: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pages flat [num_blocks, page bytes], and where payloads and `scales` scale bytes of slots lie in them."""
    block_size, row_bytes = cache.shape[1:]
    block, row = (at // block_size).unsqueeze(-1), (at % block_size).unsqueeze(-1)
    values = row * payload + torch.arange(payload, device=cache.device)
    padded = row_bytes - payload
    factors = block_size * payload + row * padded + torch.arange(scales, device=cache.device)
    return block, values, factors


def _load(cache: Tensor, at: Tensor, payload: int, scales: int) -> tuple[Tensor, Tensor]:
    block, values, factors = _bytes(cache, at, payload, scales)
    flat = cache.flatten(1)
    return flat[block, values], flat[block, factors]


def _store(cache: Tensor, at: Tensor, payload: Tensor, scales: Tensor) -> None:
    block, values, factors = _bytes(cache, at, payload.shape[-1], scales.shape[-1])
    flat = cache.flatten(1)  # a view: rows of a page are contiguous
    flat[block, values] = payload
    flat[block, factors] = scales


def _plain(cache: Tensor, at: Tensor) -> Tensor:
    return cache[at // cache.shape[1], at % cache.shape[1]]


def read_kv(cache: Tensor, at: Tensor, head_dim: int, rope_dim: int) -> Tensor:
    """KV rows [..., head_dim] of slots `at` [...]."""
    if cache.dtype != torch.uint8:
        return _plain(cache, at)
    keep = head_dim - rope_dim
    payload, scale = _load(cache, at, keep + 2 * rope_dim, -(-keep // KV_BLOCK))
    quantised = dequantise_rows(payload[..., :keep].contiguous().view(torch.float8_e4m3fn), scale, KV_BLOCK)
    return torch.cat((quantised.bfloat16(), payload[..., keep:].contiguous().view(torch.bfloat16)), dim=-1)


def read_keys(cache: Tensor, at: Tensor, head_dim: int) -> Tensor:
    """Index keys [..., head_dim] of slots `at` [...]."""
    if cache.dtype != torch.uint8:
        return _plain(cache, at)
    if cache.shape[2] == head_dim + FLOAT:
        payload, scale = _load(cache, at, head_dim, FLOAT)
        return (payload.view(torch.float8_e4m3fn).float() * scale.view(torch.float32)).bfloat16()
    payload, scale = _load(cache, at, head_dim // 2, -(-head_dim // 32))
    return dequantise_fp4(payload.view(torch.int8), scale, dtype=torch.bfloat16)


def write_rows(cache: Tensor | None, rows: Tensor, slot_mapping: Tensor | None, rope_dim: int, quant: str) -> None:
    """Stores rows [n, D] at their slots, except where the slot is negative.

    Packing rows that `quant` ("fp8", "hadamard_fp4", "hadamard_fp8") has rounded loses nothing: whatever scale their
    rounded values ask for, each is a code times it.
    """
    if cache is None or slot_mapping is None:
        return
    kept = slot_mapping >= 0
    at, rows = slot_mapping[kept], rows.detach()[kept]
    if cache.dtype != torch.uint8:
        cache[at // cache.shape[1], at % cache.shape[1]] = rows.to(cache.dtype)
    elif quant == "fp8":
        keep = rows.shape[-1] - rope_dim
        codes, scale = act_quant(rows[:, :keep], KV_BLOCK)
        turned = rows[:, keep:].bfloat16().contiguous()
        _store(
            cache, at, torch.cat((codes.view(torch.uint8), turned.view(torch.uint8)), dim=-1), scale.view(torch.uint8)
        )
    elif quant == "hadamard_fp8":
        codes, scale = act_quant(rows, rows.shape[1])
        _store(cache, at, codes.view(torch.uint8), e8m0_to_float(scale).view(torch.uint8))
    else:
        codes, scale = fp4_act_quant(rows)
        _store(cache, at, codes.view(torch.uint8), scale.view(torch.uint8))
