"""Pools that outlive their caches, and with them the steps that were captured over them (v4npu/model/graph.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from v4npu.cache.store import Store

if TYPE_CHECKING:
    from v4npu.model import Model

MOST = 4


class KeptStores:
    """The stores of a model's latest caches: one that no cache uses any more is the next cache's.

    Each cache would have its first steps captured anew otherwise, which takes as long as a few steps. A store that is
    kept so holds addresses and no memory; where pools cannot do that, each cache has a store of its own.
    """

    def __init__(self) -> None:
        self._kept: list[Store] = []

    def __reduce__(self) -> tuple[type[KeptStores], tuple[()]]:
        return KeptStores, ()  # steps of a copied model read other weights

    def get(self, model: Model, sequences: int, max_tokens: int, draft: bool = False) -> Store:
        """A store for so many sequences, in which nothing is held."""
        for store in self._kept:
            if not store.caches and not store.nbytes and store.fits(model, draft):
                return store
        store = model.new_store(draft=draft, sequences=sequences, max_tokens=max_tokens)
        store.kept = not any(pool.bounded for pool in store.pools)
        if store.kept:
            self._kept = [*self._kept, store][-MOST:]
        return store
