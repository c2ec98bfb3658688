"""One sequence: its tokens, the blocks it owns, and how it steps back, restarts and forks.

`tokens` is what the sequence says; `computed` is how many of them the pages reflect. The rest is computed by the next
call, before what that call brings. So what is lost of the pages can be had again from the tokens, and stepping back,
restoring a file or a shared prefix, and coming back after preemption are all the same: choose where to restart.

Where a sequence can restart at token n, cheapest first:
  there      nothing was overwritten: the last KEEP_TOKENS tokens, and anything behind the last restart in the same
             windows; costs nothing
  boundary   a block boundary whose window blocks are kept, recomputing less than a block ("live" keeps the last one;
             "full" and "periodic" more)
  zero       recomputing the last layers * (window - 1) tokens before n's block with the compressed entries that are
             there: after that many tokens no window row depends on the unknown ones; bounded whatever n is
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterable, Iterator

import torch

from v4npu._C import KEEP_TOKENS
from v4npu.cache.pool import CacheFull
from v4npu.cache.store import Store


@contextlib.contextmanager
def unchanged_on_error(sequences: Iterable[Sequence]) -> Iterator[None]:
    """Whatever is raised within, the sequences say what they said before."""
    before = [(s, len(s)) for s in sequences]
    try:
        yield
    except BaseException:
        for s, num_tokens in before:
            with s.store.lock:
                s.rollback(num_tokens)
        raise


class Sequence:
    """Made by a cache or an engine; `release` gives its blocks back."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tokens = array("q")
        self.computed = 0
        self.known = 0  # tokens whose entries are valid: they are read, never written again
        self.entry_blocks = array("i")
        self.window_blocks: dict[int, int] = {}  # number of the block -> block of the pool
        self.inexact: set[int] = set()  # of them, those with rows of a restart that a straight run has not
        self.snapshots: set[int] = set()  # boundaries whose overlap rows are in the window block before them
        self.state: int | None = None
        self.base = 0  # from here on it is exact: blocks of replay_depth behind a restart without a snapshot
        self.top = 0  # one more than the highest position whose rows were written to the open state
        self.block_hashes: list[bytes] = []  # of its complete blocks, as far as a prefix cache has asked
        self.restore = False  # copy the overlap rows of the boundary `computed` before the next call

    def __len__(self) -> int:
        return len(self.tokens)

    # -- a call ---------------------------------------------------------------------------------------------

    def extend(self, ids: Iterable[int]) -> None:
        """Tokens that the next call computes."""
        self.tokens.extend(ids)

    def skip(self, num_tokens: int) -> None:
        """Starts an empty sequence at position `num_tokens`, with nothing known of what stands before."""
        self.tokens = array("q", bytes(8 * num_tokens))
        self.computed = self.known = self.base = self.top = num_tokens

    def next_piece(self) -> int:
        """Tokens to compute now: up to the last block boundary ahead, or the next one that the policy keeps; at most
        the store's `piece_tokens` or a block, which bounds what a long prompt holds at once."""
        block = self.store.block_tokens
        end = min(len(self.tokens), self.computed + max(self.store.piece_tokens, block))
        if period := self.store.period:
            end = min(end, (self.computed // period + 1) * period)
        last = end // block * block
        return (last if last > self.computed else end) - self.computed

    def blocks_needed(self, count: int) -> tuple[int, int, int]:
        """Entry blocks, window blocks and states that `prepare(count)` would allocate."""
        store, block, end = self.store, self.store.block_tokens, self.computed + count
        first = self.computed // block
        entries = max(0, -(-end // block) - len(self.entry_blocks))
        if store.layout.entry_block:
            entries += sum(store.entry_pool.shared(b) for b in self.entry_blocks[self._first_written() :])
        else:
            entries = 0
        wanted = range(self._first_window(), -(-end // block))
        windows = sum(
            j not in self.window_blocks or (j >= first and store.window_pool.shared(self.window_blocks[j]))
            for j in wanted
        )
        state = self.state is None or store.state_pool.shared(self.state)
        return entries, windows, int(state and store.layout.open_state > 0)

    def prepare(self, count: int) -> None:
        """Makes room for `count` more tokens; CacheFull leaves everything as it was."""
        store, block, end = self.store, self.store.block_tokens, self.computed + count
        needed = self.blocks_needed(count)
        size = sum(n * pool.block_bytes for n, pool in zip(needed, store.pools, strict=True))
        if store.budget.used + size > store.budget.limit or any(
            n > p.room() for n, p in zip(needed, store.pools, strict=True)
        ):
            raise CacheFull(
                f"v4npu: {count} more tokens need {size:,} bytes, and {store.budget.used:,} of the cache's "
                f"{store.budget.limit:,} are in use"
            )
        if store.layout.entry_block:
            for i in range(self._first_written(), len(self.entry_blocks)):
                self.entry_blocks[i] = store.entry_pool.writable(self.entry_blocks[i])
            while len(self.entry_blocks) * block < end:
                self.entry_blocks.append(store.entry_pool.allocate())
        for j in range(self._first_window(), -(-end // block)):
            if j not in self.window_blocks:
                self.window_blocks[j] = store.window_pool.allocate()
                if j * block < self.computed:  # unknown before a restart: finite, and without effect after replay_depth
                    store.window_pool.bytes[self.window_blocks[j]].zero_()
                    self.inexact.add(j)
            elif j * block + block > self.computed:
                self.window_blocks[j] = store.window_pool.writable(self.window_blocks[j])
                self.snapshots.discard((j + 1) * block)
            if (j + 1) * block > self.computed:  # it is written to
                (self.inexact.add if j * block <= self.base - store.window else self.inexact.discard)(j)
        if store.layout.open_state:
            state = self.state
            self.state = store.state_pool.allocate() if state is None else store.state_pool.writable(state)
            if state is None and self.computed:
                store.state_pool.bytes[self.state].zero_()  # as the window rows above
        if self.restore:
            self._copy_overlap(self.computed, restore=True)
            self.restore = False

    def commit(self, count: int) -> None:
        """The call computed `count` tokens."""
        block = self.store.block_tokens
        self.computed += count
        self.known = max(self.known, self.computed)
        self.top = max(self.top, self.computed)
        if self.computed % block == 0 and self.computed >= self.base:
            self._copy_overlap(self.computed, restore=False)
            self.snapshots.add(self.computed)
        oldest = min(self.computed // block * block, self.computed - KEEP_TOKENS) - self.store.window + 1
        for j in [j for j in self.window_blocks if (j + 1) * block <= oldest and not self.store.retained(j)]:
            self._drop_window(j)

    def failed(self, count: int) -> None:
        """A call of `count` tokens broke off: what it may have overwritten is not used again."""
        self.top = max(self.top, self.computed + count)
        self.snapshots = {s for s in self.snapshots if s <= self.computed}
        if not self._intact(self.computed):
            self.restart(max(self.computed, self.base))

    # -- going back -----------------------------------------------------------------------------------------

    def rollback(self, num_tokens: int) -> None:
        """Forgets everything after `num_tokens` tokens."""
        if type(num_tokens) is not int or not 0 <= num_tokens <= len(self.tokens):
            raise ValueError(f"num_tokens must be an integer in 0..{len(self.tokens)}, got {num_tokens!r}")
        block = self.store.block_tokens
        del self.tokens[num_tokens:], self.block_hashes[num_tokens // block :]
        self.known = min(self.known, num_tokens)
        if self._goes_back(num_tokens):
            self.restart(num_tokens)
        self.computed = min(self.computed, num_tokens)
        while len(self.entry_blocks) * block >= num_tokens + block:
            self.store.entry_pool.release(self.entry_blocks.pop())
        for j in [j for j in self.window_blocks if j * block >= num_tokens]:
            self._drop_window(j)

    def replay(self, num_tokens: int) -> int:
        """Tokens that stepping back to `num_tokens` makes the next call compute again."""
        return num_tokens - self._restart_at(num_tokens)[0] if self._goes_back(num_tokens) else 0

    def fork(self) -> Sequence:
        """The same sequence again, sharing every block until one of the two writes to it."""
        store, other = self.store, Sequence(self.store)
        other.tokens, other.computed, other.known = self.tokens[:], self.computed, self.known
        other.base, other.top, other.restore = self.base, self.top, self.restore
        other.entry_blocks = array("i", [store.entry_pool.retain(b) for b in self.entry_blocks])
        other.window_blocks = {j: store.window_pool.retain(b) for j, b in self.window_blocks.items()}
        other.inexact, other.snapshots = set(self.inexact), set(self.snapshots)
        other.block_hashes = list(self.block_hashes)
        other.state = None if self.state is None else store.state_pool.retain(self.state)
        return other

    def release(self) -> None:
        """Gives all blocks back and keeps the tokens: the sequence can be computed again."""
        for b in self.entry_blocks:
            self.store.entry_pool.release(b)
        self.entry_blocks = array("i")
        for j in list(self.window_blocks):
            self._drop_window(j)
        self._drop_state()
        self.computed = self.known = self.base = self.top = 0
        self.restore = False

    def adopt(
        self, known: int, entry_blocks: Iterable[int], window_blocks: dict[int, int], snapshots: Iterable[int]
    ) -> None:
        """Starts from blocks that hold its first `known` tokens; the caller has retained them for it."""
        self.entry_blocks, self.window_blocks = array("i", entry_blocks), dict(window_blocks)
        self.snapshots, self.known = set(snapshots), known
        self.restart(known)

    # -- inside ---------------------------------------------------------------------------------------------

    def _first_written(self) -> int:
        """Number of the first entry block that the next call may write to."""
        return max(self.known, self.computed) // self.store.block_tokens

    def _first_window(self) -> int:
        return max(0, self.computed - self.store.window + 1) // self.store.block_tokens

    def _drop_window(self, j: int) -> None:
        self.store.window_pool.release(self.window_blocks.pop(j))
        self.inexact.discard(j)
        self.snapshots.discard((j + 1) * self.store.block_tokens)

    def _drop_state(self) -> None:
        if self.state is not None:
            self.store.state_pool.release(self.state)
            self.state = None

    def _windows_kept(self, n: int) -> bool:
        """Whether the rows of the window before token n are there."""
        block = self.store.block_tokens
        first = max(0, n - self.store.window + 1) // block
        return all(j in self.window_blocks for j in range(first, -(-n // block)))

    def _intact(self, n: int) -> bool:
        """Whether the pages can go on at token n as they are."""
        if self.restore or not self._windows_kept(n):
            return n == self.computed and self.restore
        for at, ratio in zip(self.store.layout.layers, self.store.ratios, strict=True):
            if ratio:
                first = max(0, n - n % ratio - at.overlap_rows)  # the oldest row that the next entry pools
                if first < n and first < self.top - at.state_rows:
                    return False
        return True

    def _goes_back(self, n: int) -> bool:
        """Whether token n can come next only behind a restart; a restart that is still owed is exact from `base` on."""
        return n < self.base or (n < self.computed and (n == 0 or not self._intact(n)))

    def _restart_at(self, n: int) -> tuple[int, bool]:
        """Where to compute again from so as to reach token n, and whether a snapshot lies there."""
        block, depth = self.store.block_tokens, self.store.replay_depth
        zero = max(0, n // block * block - depth) // block * block
        for boundary in sorted(self.snapshots, reverse=True):
            if zero < boundary <= n and self._windows_kept(boundary):
                return boundary, True
        return zero, False

    def restart(self, n: int) -> None:
        """Chooses where to compute again from so that token n comes next; the entries before it are known."""
        start, snapshot = self._restart_at(n)
        self.computed = self.top = start
        self.base = start if snapshot or start == 0 else start + self._replayed()
        self.restore = snapshot
        if not snapshot:
            for j in list(self.window_blocks):
                if not self.store.retained(j) or (j + 1) * self.store.block_tokens > start:
                    self._drop_window(j)
        self._drop_state()

    def _replayed(self) -> int:
        """Tokens behind a restart without a snapshot that are not exact, in blocks: an entry that has begun is pooled
        again, of rows that must be."""
        block = self.store.block_tokens
        return -(-self.store.replay_depth // block) * block

    def _copy_overlap(self, boundary: int, restore: bool) -> None:
        """Between the open state and the overlap rows in the window block before `boundary`."""
        store = self.store
        if self.state is None or boundary == 0:
            return
        page, state = self.window_blocks[boundary // store.block_tokens - 1], self.state
        for layer, at in zip(store.layers, store.layout.layers, strict=True):
            if at.overlap_rows:
                rows = torch.arange(boundary - at.overlap_rows, boundary, device=store.device) % at.state_rows
                for open_rows, kept in ((layer.state, layer.overlap), (layer.index_state, layer.index_overlap)):
                    assert open_rows is not None and kept is not None
                    half = open_rows.shape[3] // 2  # the half of the columns that feeds the next window
                    if restore:
                        open_rows[state][:, rows, :half] = kept[page]
                    else:
                        kept[page] = open_rows[state][:, rows, :half]
