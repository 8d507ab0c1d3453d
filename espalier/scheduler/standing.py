"""A request and the cached prefix it stands on: finding it, taking it, and sharing it on.

A match may end inside a page. The whole pages are used where they are; the tail is copied to a
page of the request's own, which it then goes on filling.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from espalier.cache.node import Match
from espalier.protocol.arrays import NO_IDS, Ids
from espalier.protocol.messages import Admitted
from espalier.protocol.step import PageChanges
from espalier.scheduler.request import Request
from espalier.scheduler.state import State, joined


@dataclass(slots=True)
class Changes:
    """Page-table news of the step being made."""

    slots: list[Ids] = field(default_factory=list)
    indexes: list[Ids] = field(default_factory=list)
    pages: list[Ids] = field(default_factory=list)
    copy_from: list[int] = field(default_factory=list)
    copy_to: list[int] = field(default_factory=list)
    repeated: bool = False  # an entry may occur twice; the later one holds

    def row(self, slot: int, start: int, pages: Ids) -> None:
        """Entries [start, start + len(pages)) of one slot's row."""
        self.slots.append(np.full(len(pages), slot, np.int32))
        self.indexes.append(np.arange(start, start + len(pages), dtype=np.int32))
        self.pages.append(pages)

    def made(self) -> PageChanges:
        if not self.slots:
            return PageChanges()
        slots, indexes, pages = joined(self.slots), joined(self.indexes), joined(self.pages)
        if self.repeated:
            last = _last_of_each(slots, indexes)
            slots, indexes, pages = slots[last], indexes[last], pages[last]
        copy_from = np.array(self.copy_from, np.int32) if self.copy_from else NO_IDS
        copy_to = np.array(self.copy_to, np.int32) if self.copy_to else NO_IDS
        return PageChanges(slots, indexes, pages, copy_from, copy_to)


def _last_of_each(slots: Ids, indexes: Ids) -> Ids:
    """Rows that no later row with the same slot and index replaces."""
    keys = slots.astype(np.int64)[::-1] << 32 | indexes[::-1]
    _, first = np.unique(keys, return_index=True)
    rows: Ids = np.sort(len(keys) - 1 - first).astype(np.int32)
    return rows


def look_up(state: State, request: Request) -> Match:
    """What the cache has of a request's tokens; remembered until the cache changes."""
    if request.match is None or request.match_version != state.cache.version:
        namespace = request.message.namespace
        request.match = state.cache.match(namespace, request.tokens, request.match_limit)
        request.match_version = state.cache.version
    return request.match


def stand_on(state: State, slot: int, match: Match, changes: Changes) -> None:
    """Make a match's pages the beginning of the slot's row, in place of what it held."""
    slots, cache = state.slots, state.cache
    request = slots.request(slot)
    own = slots.own_pages(slot)
    hold = cache.pin(match)
    if request.hold is not None:
        cache.release(request.hold)
    cache.free(own)
    pages = cache.pages(hold)
    request.hold = hold
    request.matched = len(pages)
    slots.held[slot] = slots.shared[slot] = 0
    slots.append_pages(slot, pages)
    slots.shared[slot] = len(pages)
    reached = match.whole
    if match.tail:
        page = cache.allocate(1)
        if page is not None:
            slots.append_pages(slot, page)
            changes.copy_from.append(match.tail_page)
            changes.copy_to.append(int(page[0]))
            reached = match.length
    held = int(slots.held[slot])
    changes.row(slot, 0, slots.table[slot, :held].copy())
    # The copy is made by the step to come; until that has come back, only whole pages are done.
    slots.computed[slot], slots.done[slot] = reached, match.whole
    if reached > match.whole:
        slots.write(slot, match.whole, request.tokens[match.whole : reached])


def catch_up(state: State, changes: Changes) -> None:
    """Let prompts that are under way go on from what others have computed of them meanwhile."""
    slots = state.slots
    if state.seen_version == state.cache.version:
        return
    rows = slots.running
    under_way = (slots.computed[rows] < slots.given[rows]) & (slots.in_flight[rows] == 0)
    for slot in rows[under_way].tolist():
        request = slots.request(slot)
        if state.flights and slots.computed[slot] != slots.done[slot]:
            continue
        match = look_up(state, request)
        if match.length > slots.computed[slot]:
            gained = match.length - int(slots.computed[slot])
            stand_on(state, slot, match, changes)
            state.totals.cached_tokens += gained
            request.cached += min(gained, request.prompt_length)
            state.out.admitted.append(Admitted(request.id, request.cached))
    state.seen_version = state.cache.version


def share(state: State, slot: int, end: int, step: int, changes: Changes) -> None:
    """Give the tree what a prompt's chunk up to `end` fills, and lend it the unfinished page.

    It is pending until the step has come back. A prompt that is computed for its log probabilities
    although the cache has it keeps its pages to itself until it ends.
    """
    slots, cache = state.slots, state.cache
    request = slots.request(slot)
    if request.unscored_from is not None or not cache.sharing:
        return
    size = state.limits.page_size
    shared, whole = int(slots.shared[slot]), end // size
    assert request.hold is not None, "a running request stands on a path, if only on the root"
    if whole > shared:
        tokens = request.tokens[shared * size : whole * size]
        pages = slots.table[slot, shared:whole].copy()
        extended = cache.extend(
            request.hold, tokens, pages, step=step, priority=request.message.priority
        )
        request.hold = extended.hold
        slots.shared[slot] = whole
        if not np.array_equal(extended.pages, pages):
            # Another request of this step computes the same: both write the same there.
            slots.table[slot, shared:whole] = extended.pages
            changes.row(slot, shared, extended.pages)
            changes.repeated = True
    if end == slots.given[slot] and end % size:
        page = int(slots.table[slot, whole])
        tail = request.tokens[whole * size : end]
        request.loan = cache.lend(request.hold, tail, page, step)
