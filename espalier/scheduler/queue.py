"""Those who wait. The first few stand in a window that policies may reorder; the rest in a heap.

Nothing here is linear in how many wait: a policy never sees more than the window, which holds the
longest waiting of the highest priority, and leaving is a mark that the heap forgets later.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Iterator

from espalier.scheduler.policy import Policy, Queued, order
from espalier.scheduler.request import Request

WINDOW = 128

Look = Callable[[Request], Queued]  # what the policy may know of a request


class Queue:
    def __init__(self, policy: Policy | None) -> None:
        """`policy` None keeps the order of arrival, and looks nothing up."""
        self._policy = policy
        self._window: list[Request] = []  # by order; the heap holds only later ones
        self._heap: list[tuple[tuple[int, int], Request]] = []
        self.count = 0
        self.num_tokens = 0

    def __len__(self) -> int:
        return self.count

    def add(self, request: Request) -> None:
        request.phase = "waiting"
        self.count += 1
        self.num_tokens += len(request.tokens)
        if not self._heap or request.order < self._heap[0][0]:
            insort(self._window, request, key=lambda one: one.order)
            while len(self._window) > WINDOW:
                last = self._window.pop()
                heapq.heappush(self._heap, (last.order, last))
        else:
            heapq.heappush(self._heap, (request.order, request))

    def remove(self, request: Request) -> None:
        """Take out one who joins, or who ended; the caller sets its phase."""
        self.count -= 1
        self.num_tokens -= len(request.tokens)
        if request in self._window:
            self._window.remove(request)
        else:
            request.phase = "ended"  # the heap forgets it when it comes up

    def candidates(self, look: Look, now: float) -> Iterator[Request]:
        """In the order they should join; the queue may change only after the last is taken."""
        self._refill()
        if self._policy is None:
            yield from list(self._window)
            return
        for same in _by_priority(self._window):
            by_sequence = {request.sequence: request for request in same}
            for queued in order(self._policy, [look(request) for request in same], now):
                yield by_sequence[queued.sequence]

    def first(self) -> Request | None:
        self._refill()
        return self._window[0] if self._window else None

    def all(self) -> list[Request]:
        """Everyone who waits, in no order; for checks and shutting down, not for steps."""
        return [*self._window, *(one for _, one in self._heap if one.phase == "waiting")]

    def _refill(self) -> None:
        while self._heap and len(self._window) < WINDOW:
            _, request = heapq.heappop(self._heap)
            if request.phase == "waiting":
                self._window.append(request)


def _by_priority(window: list[Request]) -> Iterator[list[Request]]:
    same: list[Request] = []
    for request in window:
        if same and same[0].message.priority != request.message.priority:
            yield same
            same = []
        same.append(request)
    if same:
        yield same
