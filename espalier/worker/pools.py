"""The tensors of the cache: keys and values by place, one pool a layer.

A page is `page_size` places in a row. Page 0 belongs to nobody: it is zero at the start, table
entries that were never set point to it, and what must go nowhere is written there.

K key-value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espalier.attention.base import Heads
from espalier.protocol.arrays import Ids
from espalier.worker.transfer import to_device


class Pools:
    """Taken once, at start; a step allocates nothing here."""

    def __init__(
        self,
        heads: Sequence[Heads],
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        places = num_pages * page_size
        self.kv = [
            torch.zeros(2, places, layer.key_value, layer.size, dtype=dtype, device=device)
            for layer in heads
        ]
        self.tokens = torch.zeros(places, dtype=torch.int32, device=device)

    @property
    def size_bytes(self) -> int:
        return sum(pool.nbytes for pool in (*self.kv, self.tokens))

    def copy_pages(self, copy_from: Ids, copy_to: Ids) -> None:
        """Whole pages, tokens included. All are read before any is written."""
        if not len(copy_from):
            return
        device = self.tokens.device
        source, target = to_device(copy_from, device), to_device(copy_to, device)
        pages = self.tokens.view(-1, self.page_size)
        pages[target] = pages[source]  # indexing by a tensor reads into a copy
        for pool in self.kv:
            pages = pool.view(2, -1, self.page_size, *pool.shape[2:])
            pages[:, target] = pages[:, source]
