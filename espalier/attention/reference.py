"""The reference attention backend: plain PyTorch, right to the bit whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from espalier.attention.base import Attention, Heads, Layout
from espalier.kernels.attention import Chunks, Tiles, paged_attention, tiles_of
from espalier.kernels.kv_store import kv_store


class ReferenceBackend:
    """Attention over `pools`, for each layer keys and values: [2, slots, K, H]."""

    def __init__(self, pools: Sequence[Tensor]) -> None:
        self.pools = pools

    def prepare(self, layout: Layout) -> Attention:
        return ReferenceAttention(self.pools, layout)


class ReferenceAttention:
    """One step's attention. Tiles are cut once for each window that the layers have."""

    def __init__(self, pools: Sequence[Tensor], layout: Layout) -> None:
        self.pools = pools
        self.slots_T = layout.slots_T
        self.chunks = Chunks(layout.starts, layout.ends, layout.tables_CP, layout.page_size)
        self.tiles: dict[int | None, list[Tiles]] = {}

    def __call__(self, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, heads: Heads) -> Tensor:
        kv_2SKH = kv_store(self.pools[heads.layer], k_TKH, v_TKH, self.slots_T)
        if heads.window not in self.tiles:
            self.tiles[heads.window] = tiles_of(self.chunks, heads.window)
        tiles = self.tiles[heads.window]
        return paged_attention(q_TNH, kv_2SKH, tiles, heads.scale, heads.window, heads.soft_cap)
