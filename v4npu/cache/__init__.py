"""What sequences leave behind: pages in pools, sequences that own them, and the cache of a batch.

Read pool.py (blocks), store.py (a model's pools and where pages lie in them), sequence.py (what a sequence owns,
stepping back, restarting), cache.py, kept.py (what a cache leaves to the next), prefix.py (what requests share) and
files.py.
"""

from __future__ import annotations

from v4npu.cache.cache import Cache
from v4npu.cache.kept import KeptStores
from v4npu.cache.pool import CacheFull
from v4npu.cache.prefix import PrefixCache
from v4npu.cache.sequence import Sequence, unchanged_on_error
from v4npu.cache.store import LayerCache, Store

__all__ = ["Cache", "CacheFull", "KeptStores", "LayerCache", "PrefixCache", "Sequence", "Store", "unchanged_on_error"]
