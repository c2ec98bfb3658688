"""The pools of one model's sequences, and the pages of each layer in them (csrc/include/v4npu/cache_layout.h)."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from v4npu import _C
from v4npu.cache.pool import Budget, Pool

if TYPE_CHECKING:
    from v4npu.model import Model
    from v4npu.model.config import Config

BLOCK_TOKENS = 128  # a classical block; more where the ratios ask for it
MAX_BLOCK_TOKENS = 1 << 20  # the largest ratio there is; a pool reserves a block at least
POLICIES = ("live", "full", "periodic", "zero")


@dataclass(frozen=True)
class LayerCache:
    """One layer's pages in every block of the pools; None where the layer has none."""

    window: Tensor  # [blocks, block_tokens, head_dim] or packed
    entries: Tensor | None  # [blocks, entries per block, head_dim] or packed
    keys: Tensor | None  # [blocks, entries per block, index_head_dim] or packed
    state: Tensor | None  # [states, 2, ring, coff * head_dim]
    index_state: Tensor | None  # [states, 2, ring, coff * index_head_dim]
    overlap: Tensor | None  # [blocks, 2, ratio, head_dim]
    index_overlap: Tensor | None  # [blocks, 2, ratio, index_head_dim]


def piece_tokens(config: Config, device: torch.device) -> int:
    """Tokens of one sequence in one pass through the layers, at most.

    On a CPU the tensors of a short pass are small enough for the heap to use again, and in part for the processor's
    caches. But an expert's weights should be decoded for some 64 tokens at a time.
    """
    if device.type != "cpu":
        return 4096
    wanted = 64 * config.n_routed_experts // config.num_experts_per_tok
    return next(n for n in (512, 1024, 2048, 4096) if n >= wanted or n == 4096)


class Store:
    """Where the caches of one model live: entry blocks, window blocks and open states under one byte limit.

    Args:
        config: of the model.
        ratios: of the layers that are cached, 0 = window only.
        dtype: of the activations.
        official: rows are packed (FP8 KV, FP4 keys) where the activations are bfloat16, which loses nothing.
        device: where it lives.
        max_bytes: limit of everything allocated here.
        sequences, max_tokens: what a device that cannot reserve address space allocates blocks for, once.
        block_tokens: tokens of a block; a multiple of every ratio, at most 2^20.
        window_policy: which window rows are kept beside those that the next token sees: "live" none, "full" all,
            "periodic" those before every `period`-th token; "zero" is "live" in memory and nothing in a file.
        period: of "periodic", in tokens; a multiple of block_tokens.
        poison: fill fresh blocks with NaN, for tests.
    """

    @torch.inference_mode(False)  # pages are written to by calls of any mode
    def __init__(
        self,
        config: Config,
        ratios: tuple[int, ...],
        dtype: torch.dtype,
        official: bool,
        device: torch.device,
        *,
        max_bytes: int | None = None,
        sequences: int = 1,
        max_tokens: int = 1 << 20,
        block_tokens: int | None = None,
        window_policy: str = "live",
        period: int | None = None,
        poison: bool = False,
    ) -> None:
        least = math.lcm(*(r for r in ratios if r)) if any(ratios) else 1
        block_tokens = -(-BLOCK_TOKENS // least) * least if block_tokens is None else block_tokens
        if type(block_tokens) is not int or not 0 < block_tokens <= MAX_BLOCK_TOKENS or block_tokens % least:
            raise ValueError(
                f"block_tokens must be a positive multiple of {least} up to {MAX_BLOCK_TOKENS}, got {block_tokens!r}"
            )
        for name, value in (("max_bytes", max_bytes), ("sequences", sequences), ("max_tokens", max_tokens)):
            if (type(value) is not int or value < 1) and (name, value) != ("max_bytes", None):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if window_policy not in POLICIES:
            raise ValueError(f"window_policy must be one of {', '.join(POLICIES)}, got {window_policy!r}")
        if (period is None) == (window_policy == "periodic"):
            raise ValueError('period must be given with window_policy "periodic", and only then')
        if period is not None and (type(period) is not int or period < 1 or period % block_tokens):
            raise ValueError(f"period must be a positive multiple of block_tokens {block_tokens}, got {period!r}")
        self.config, self.ratios, self.dtype, self.official, self.device = config, ratios, dtype, official, device
        self.compressed = tuple(sorted({r for r in ratios if r}))
        self.block_tokens, self.window = block_tokens, config.sliding_window
        self.window_policy = window_policy
        self.period = block_tokens if window_policy == "full" else period or 0
        self.packed = official and dtype == torch.bfloat16
        self.layout = _C.cache_layout(geometry(config, ratios, dtype, self.packed, block_tokens))
        self.piece_tokens = piece_tokens(config, device)
        self.budget = Budget(max_bytes if max_bytes is not None else 1 << 62)
        blocks = -(-max_tokens // block_tokens)
        windows = blocks if self.period else min(blocks, self._live_windows() + self.piece_tokens // block_tokens)
        for name, size, count in (
            ("entry_pool", self.layout.entry_block, blocks),
            ("window_pool", self.layout.window_block, windows),
            ("state_pool", self.layout.open_state, 2),
        ):
            setattr(self, name, Pool(size, sequences * count, device, self.budget, poison))
        self.entry_pool: Pool
        self.window_pool: Pool
        self.state_pool: Pool
        self.layers = [self._layer(i) for i in range(len(ratios))]
        self.lock = threading.RLock()  # passes of caches that share pools and captured steps take turns
        self.graphs: OrderedDict[Hashable, Any] = OrderedDict()  # steps captured over these pools: v4npu/model/graph.py
        self.caches = 0  # that use it
        self.kept = False  # by its model, for the next cache: kept.py

    @property
    def pools(self) -> tuple[Pool, Pool, Pool]:
        return self.entry_pool, self.window_pool, self.state_pool

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return self.budget.used

    @property
    def replay_depth(self) -> int:
        """Tokens after which nothing a restart needs depends on the window rows before it.

        Rows of layer n are right n windows later; the last layer's window, or its overlap rows, must be.
        """
        overlap = max((at.overlap_rows for at in self.layout.layers), default=0)
        return (len(self.ratios) - 1) * (self.window - 1) + max(self.window - 1, overlap)

    def fits(self, model: Model, draft: bool) -> bool:
        """Whether it holds what the layers of `model`, or those that draft, leave behind."""
        made_for = (self.config, self.ratios, self.dtype, self.official, self.device)
        official = model.numerics == "official"
        return made_for == (model.config, model.ratios(draft), model.dtype, official, model.device)

    @torch.inference_mode(False)
    def grow(self) -> None:
        """Twice the room, for a device that cannot reserve address space."""
        try:
            for pool in self.pools:
                pool.grow()
        finally:  # some may have moved before one found no memory
            self.layers = [self._layer(i) for i in range(len(self.ratios))]
            self.graphs.clear()  # they know where the pages were

    def leave(self) -> None:
        """One cache less. What is kept for the next one gives its memory back first, unless somebody is busy here."""
        self.caches -= 1
        if self.kept and not self.caches and self.lock.acquire(blocking=False):
            try:
                if not self.caches:  # none came meanwhile; one that comes now waits for the lock before it allocates
                    for pool in self.pools:
                        pool.clear()
            finally:
                self.lock.release()

    def bytes_for(self, num_tokens: int) -> int:
        """Upper bound of what one sequence of `num_tokens` holds between calls: entries, live windows, open state."""
        layout, blocks = self.layout, -(-num_tokens // self.block_tokens)
        windows = blocks if self.period else min(blocks, self._live_windows())
        return blocks * layout.entry_block + windows * layout.window_block + (layout.open_state if blocks else 0)

    def _live_windows(self) -> int:
        """Window blocks that a sequence holds between calls, at most."""
        return -(-(self.window - 1 + _C.KEEP_TOKENS) // self.block_tokens) + 1

    def retained(self, block: int) -> bool:
        """Whether the policy keeps window block `block`: a snapshot is taken in or less than a window behind it."""
        if not self.period:
            return False
        after = -(-((block + 1) * self.block_tokens) // self.period) * self.period
        return after - self.window + 1 < (block + 1) * self.block_tokens

    def _layer(self, i: int) -> LayerCache:
        config, at, block = self.config, self.layout.layers[i], self.block_tokens
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32

        def rows(pool: Pool, offset: int, count: int, name: str, dim: int) -> Tensor | None:
            if offset < 0:
                return None
            if not self.packed:
                return pool.page(offset, (count, dim), self.dtype)
            row = _C.row_format(name, dim, config.qk_rope_head_dim, 2).row
            return pool.page(offset, (count, row), torch.uint8)

        def state(pool: Pool, offset: int, count: int, cols: int) -> Tensor | None:
            return None if offset < 0 else pool.page(offset, (2, count, cols), wide)

        per_block, dims = at.entries_per_block, (config.head_dim, config.index_head_dim)
        window = rows(self.window_pool, at.window, block, "fp8_kv", dims[0])
        assert window is not None
        return LayerCache(
            window,
            rows(self.entry_pool, at.entries, per_block, "fp8_kv", dims[0]),
            rows(self.entry_pool, at.keys, per_block, "fp4_key", dims[1]),
            state(self.state_pool, at.state, at.state_rows, at.state_cols),
            state(self.state_pool, at.index_state, at.state_rows, at.index_cols),
            state(self.window_pool, at.overlap, at.overlap_rows, dims[0]),
            state(self.window_pool, at.index_overlap, at.overlap_rows, dims[1]),
        )


def geometry(
    config: Config, ratios: tuple[int, ...], dtype: torch.dtype, packed: bool, block_tokens: int
) -> _C.CacheGeometry:
    """What cache_layout asks for."""
    dim, index, rope = config.head_dim, config.index_head_dim, config.qk_rope_head_dim
    out = _C.CacheGeometry()
    out.block_tokens, out.head_dim, out.index_head_dim = block_tokens, dim, index
    kv = _C.row_format("fp8_kv" if packed else "plain", dim, rope, dtype.itemsize)
    out.window = out.entry = kv
    out.key = _C.row_format("fp4_key" if packed else "plain", index, rope, dtype.itemsize)
    out.state_element = 8 if dtype == torch.float64 else 4
    out.ratios, out.overlaps = list(ratios), [config.overlap(r) for r in ratios]
    return out
