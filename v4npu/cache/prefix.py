"""Prefixes that sequences have computed, by token blocks, for later sequences that begin alike.

A block is known by the hash of everything up to its end, so a hit means that all tokens before it agree too. Beside its
entries a block may hold its window rows and the overlap rows at its end, where the store's policy keeps them: a hit
then goes on there. Otherwise the next call recomputes the window, bounded as sequence.py says.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence as Ids
from dataclasses import dataclass

from v4npu.cache.sequence import Sequence
from v4npu.cache.store import Store


@dataclass
class Node:
    """One block of some prefix."""

    parent: bytes
    entries: int | None  # block of the entry pool
    windows: int | None  # block of the window pool
    snapshot: bool  # the overlap rows at its end are in `windows`
    children: int = 0


class PrefixCache:
    """Blocks of finished and running sequences, evicted least recently used first.

    Args:
        store: of the sequences.
        max_bytes: limit of the blocks held here, beyond which the oldest prefixes are dropped from their ends.

    Prefixes are shared only under the same salt: one per tenant keeps tenants apart.
    """

    def __init__(self, store: Store, max_bytes: int) -> None:
        self.store, self.max_bytes = store, max_bytes
        self.nbytes = 0
        self.hits = 0  # tokens found
        self._nodes: OrderedDict[bytes, Node] = OrderedDict()

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._nodes)

    def publish(self, s: Sequence, salt: bytes = b"") -> None:
        """Takes up the complete blocks of a sequence; what is here already is marked as used."""
        store, block = self.store, self.store.block_tokens
        complete = min(s.computed, len(s.tokens)) // block
        hashes = s.block_hashes
        for i in range(len(hashes), complete):
            hashes.append(_key(hashes[-1] if i else _root(salt), s.tokens[i * block : (i + 1) * block]))
        for i in range(complete):
            parent, key = hashes[i - 1] if i else _root(salt), hashes[i]
            node = self._nodes.get(key)
            if node is None:
                entries = store.entry_pool.retain(s.entry_blocks[i]) if store.layout.entry_block else None
                node = self._nodes[key] = Node(parent, entries, None, False)
                self.nbytes += store.layout.entry_block
                if parent in self._nodes:
                    self._nodes[parent].children += 1
            if node.windows is None and store.retained(i) and i in s.window_blocks and i not in s.inexact:
                node.windows = store.window_pool.retain(s.window_blocks[i])
                node.snapshot = (i + 1) * block in s.snapshots
                self.nbytes += store.layout.window_block
            self._nodes.move_to_end(key)
        self.evict(self.max_bytes)

    def begin(self, ids: Ids[int], salt: bytes = b"") -> Sequence:
        """A sequence that holds the longest known prefix of `ids`, but never its last token: its logits are wanted."""
        s, found = Sequence(self.store), self._find(ids, salt)
        block = self.store.block_tokens
        known = len(found) * block
        self.hits += known
        s.extend(ids[:known])
        windows = {i: self.store.window_pool.retain(n.windows) for i, n in enumerate(found) if n.windows is not None}
        snapshots = [(i + 1) * block for i, n in enumerate(found) if n.snapshot]
        s.adopt(
            known, [self.store.entry_pool.retain(n.entries) for n in found if n.entries is not None], windows, snapshots
        )
        return s

    def evict(self, max_bytes: int) -> None:
        """Drops the least recently used ends of prefixes until at most `max_bytes` are held."""
        while self._nodes and self.nbytes > max_bytes:
            key = next(key for key, node in self._nodes.items() if node.children == 0)
            node = self._nodes.pop(key)
            if node.parent in self._nodes:
                self._nodes[node.parent].children -= 1
            if node.entries is not None:
                self.store.entry_pool.release(node.entries)
                self.nbytes -= self.store.layout.entry_block
            if node.windows is not None:
                self.store.window_pool.release(node.windows)
                self.nbytes -= self.store.layout.window_block

    def clear(self) -> None:
        """Drops everything."""
        self.evict(-1)

    def _find(self, ids: Ids[int], salt: bytes) -> list[Node]:
        block, key, found = self.store.block_tokens, _root(salt), []
        for at in range(0, len(ids) - block, block):
            key = _key(key, array("q", ids[at : at + block]))
            node = self._nodes.get(key)
            if node is None:
                break
            self._nodes.move_to_end(key)
            found.append(node)
        return found


def _root(salt: bytes) -> bytes:
    return hashlib.sha256(b"v4npu prefix" + salt).digest()


def _key(parent: bytes, tokens: array[int]) -> bytes:
    return hashlib.sha256(parent + tokens.tobytes()).digest()
