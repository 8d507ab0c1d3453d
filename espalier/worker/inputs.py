"""A batch as tensors, and what is kept between steps so that a batch need carry only news.

Kept are the page table by slot, and the token at every place of the cache: tokens stand in pages as
keys and values do, so a shared prefix is one copy, and a request's past is read through its pages.

T tokens, C chunks, P pages of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from espalier.attention.base import Layout
from espalier.protocol.arrays import Ids
from espalier.protocol.step import PageChanges, StepBatch
from espalier.worker.pools import Pools
from espalier.worker.transfer import to_device

FIRST_WIDTH = 16

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One forward pass, as the model and attention take it."""

    layout: Layout
    tokens_T: Tensor
    positions_T: Tensor


class Inputs:
    """The worker's; `take_pages`, `prepare` and `put` change it, in that order in a step."""

    def __init__(self, num_slots: int, pools: Pools, device: torch.device) -> None:
        self.device = device
        self.pools = pools
        self.table = torch.zeros(num_slots, FIRST_WIDTH, dtype=torch.int32, device=device)

    def take_pages(self, changes: PageChanges) -> None:
        """Set what changed in the page table, then copy pages."""
        if len(changes.slots):
            self._widen(int(changes.indexes.max()) + 1)
            at = to_device(changes.slots, self.device), to_device(changes.indexes, self.device)
            self.table[at] = to_device(changes.pages, self.device).int()
        self.pools.copy_pages(changes.copy_from, changes.copy_to)

    def _widen(self, pages: int) -> None:
        """Make room for so many pages a request; doubling makes this rare."""
        slots, width = self.table.shape
        if pages > width:
            more = max(pages, 2 * width) - width
            self.table = torch.cat((self.table, self.table.new_zeros(slots, more)), dim=1)

    def prepare(self, batch: StepBatch) -> Prepared:
        """Put the batch's tokens in their places, and say where all of the step's stand."""
        counts = batch.counts.astype(np.int64)
        ends = batch.starts + counts
        offsets = np.concatenate(([0], counts.cumsum()))
        chunk_T = np.repeat(np.arange(len(counts)), counts)
        in_chunk_T = np.arange(offsets[-1]) - offsets[chunk_T]
        positions_T = to_device(batch.starts[chunk_T] + in_chunk_T, self.device)
        slots_T = to_device(batch.slots[chunk_T], self.device)
        places_T = self.places(slots_T, positions_T)
        if len(batch.tokens):
            # A token given ahead has no page yet; its row of logits is told it (`needs.py`).
            supplied = in_chunk_T >= (counts - batch.supplied + batch.ahead)[chunk_T]
            is_ahead = np.zeros(len(batch.tokens), np.bool_)
            is_ahead[batch.supplied.cumsum()[batch.ahead > 0] - 1] = True
            into = places_T[to_device(np.flatnonzero(supplied), self.device)]
            self.pools.tokens[into] = to_device(batch.tokens[~is_ahead], self.device).int()
        width = -(-int(ends.max(initial=0)) // self.pools.page_size)
        layout = Layout(
            offsets=offsets.tolist(),
            starts=batch.starts.tolist(),
            ends=ends.tolist(),
            tables_CP=self.table[to_device(batch.slots, self.device), :width],
            slots_T=places_T,
            page_size=self.pools.page_size,
        )
        return Prepared(layout, self.pools.tokens[places_T].long(), positions_T)

    def places(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Where in the pools the tokens at these positions stand."""
        size = self.pools.page_size
        pages = self.table[slots, positions // size].long()
        return pages * size + positions % size

    def tokens_at(self, slots: Ids, positions: Ids) -> Tensor:
        """The token at each of these positions, int64; of no meaning where none was ever put."""
        at = to_device(slots, self.device), to_device(positions, self.device)
        return self.pools.tokens[self.places(*at)].long()

    def read(self, slot: int, start: int, end: int) -> Tensor:
        """The tokens at positions [start, end) of a slot's request."""
        size = self.pools.page_size
        first = start // size
        pages = self.table[slot, first : -(-end // size)].long()
        tokens = self.pools.tokens.view(-1, size)[pages].flatten()
        return tokens[start - first * size : end - first * size].long()

    def put(self, slots: Ids, positions: Ids, tokens: Tensor, chosen: Tensor) -> None:
        """Write tokens at positions where `chosen`; page 0 takes the others."""
        at = to_device(slots, self.device), to_device(positions, self.device)
        places = torch.where(chosen, self.places(*at), 0)
        self.pools.tokens[places] = tokens.int()
