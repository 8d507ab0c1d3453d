"""The running requests as columns over slots, and the pages and tokens they stand on.

A position is known when its token is decided (or is being decided by a step in flight), computed
when its keys and values are in pages (or a step in flight puts them there), and settled or done
when the step that did so has come back. Token ids are kept in pages exactly as keys and values
are, so a shared prefix is one copy here too, and nothing is dense over the context.
"""

from __future__ import annotations

import numpy as np

from espalier.protocol.arrays import Ids
from espalier.scheduler.request import Request

NEVER = np.int32(2**31 - 1)
_FIRST_WIDTH = 64


def _column(count: int) -> Ids:
    return np.zeros(count, np.int32)


class Slots:
    """Columns by slot. Owned by the scheduler; `commit` and `apply` write, `plan` reads."""

    def __init__(self, count: int, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.requests: list[Request | None] = [None] * count
        self.ids = np.zeros(count, np.int64)
        self.known = _column(count)
        self.settled = _column(count)
        self.computed = _column(count)
        self.done = _column(count)
        self.in_flight = _column(count)  # tokens being chosen
        self.given = _column(count)  # tokens before this come from us, later ones from the worker
        self.limit = _column(count)
        self.least = _column(count)  # before this length, a stop token ends nothing
        self.held = _column(count)  # pages in its row of the table
        self.shared = _column(count)  # of them, the first so many belong to the tree
        self.drafts = _column(count)  # guesses to verify in its next step
        self.stepwise = np.zeros(count, np.bool_)  # planned only when nothing of it is in flight
        self.stops = np.full((count, 1), -1, np.int32)
        self.table = np.zeros((count, _FIRST_WIDTH), np.int32)
        self.pool = np.zeros(num_pages * page_size, np.int32)
        self.free = list(range(count - 1, -1, -1))
        self.running: Ids = np.empty(0, np.int32)  # in order of service

    def take(self, request: Request, *, stepwise: bool) -> int:
        """A slot for `request`, its columns filled in; no pages yet."""
        slot = self.free.pop()
        request.slot, request.phase = slot, "running"
        self.requests[slot] = request
        message = request.message
        self.ids[slot] = request.id
        self.known[slot] = self.settled[slot] = self.given[slot] = len(request.tokens)
        self.limit[slot] = request.limit
        self.least[slot] = request.prompt_length + message.sampling.min_tokens
        self.stepwise[slot] = stepwise
        for column in (self.computed, self.done, self.in_flight, self.held, self.shared):
            column[slot] = 0
        self.drafts[slot] = 0
        self._set_stops(slot, message.sampling.stop)
        self._set_running()
        return slot

    def leave(self, slot: int) -> None:
        request = self.requests[slot]
        assert request is not None, f"slot {slot} is empty"
        request.slot = -1
        self.requests[slot] = None
        self.ids[slot] = 0
        self.held[slot] = self.shared[slot] = 0
        self.free.append(slot)
        self._set_running()

    def request(self, slot: int) -> Request:
        request = self.requests[slot]
        assert request is not None, f"slot {slot} is empty"
        return request

    def append_pages(self, slot: int, pages: Ids) -> None:
        held = int(self.held[slot])
        self.widen(held + len(pages))
        self.table[slot, held : held + len(pages)] = pages
        self.held[slot] = held + len(pages)

    def widen(self, pages: int) -> None:
        """Make the table at least so wide; it doubles, so this is rare."""
        width = self.table.shape[1]
        if pages > width:
            more = np.zeros((len(self.table), max(pages, 2 * width) - width), np.int32)
            self.table = np.concatenate((self.table, more), axis=1)

    def places(self, slot: int, start: int, end: int) -> Ids:
        """Where the tokens of positions [start, end) stand in the pool."""
        positions = np.arange(start, end)
        pages = self.table[slot, positions // self.page_size]
        found: Ids = pages * self.page_size + positions % self.page_size
        return found

    def write(self, slot: int, start: int, tokens: Ids) -> None:
        self.pool[self.places(slot, start, start + len(tokens))] = tokens

    def tokens(self, slot: int, start: int, end: int) -> Ids:
        """The tokens of positions [start, end), whether they came from us or from the worker."""
        given = int(self.given[slot])
        ours = self.request(slot).tokens[start : min(end, given)]
        if end <= given:
            return ours
        return np.concatenate((ours, self.pool[self.places(slot, max(start, given), end)]))

    def own_pages(self, slot: int) -> Ids:
        """The pages that are in no tree; the request's alone."""
        return self.table[slot, self.shared[slot] : self.held[slot]].copy()

    def _set_stops(self, slot: int, stops: tuple[int, ...]) -> None:
        width = self.stops.shape[1]
        if len(stops) > width:
            more = np.full((len(self.stops), len(stops) - width), -1, np.int32)
            self.stops = np.concatenate((self.stops, more), axis=1)
        self.stops[slot] = -1
        self.stops[slot, : len(stops)] = stops

    def _set_running(self) -> None:
        held = [request for request in self.requests if request is not None]
        held.sort(key=lambda request: request.order)
        self.running = np.array([request.slot for request in held], np.int32)
