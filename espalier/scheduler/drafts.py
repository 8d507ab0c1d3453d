"""Drafts by slot: what each request's next step will verify, and how well that went.

The planner sees a request that wants a few tokens more; only `commit` and `apply` know they are
guesses.
"""

from __future__ import annotations

from dataclasses import dataclass

from espalier.protocol.arrays import NO_IDS, Ids
from espalier.protocol.messages import Generate, RequestId
from espalier.scheduler.slots import Slots
from espalier.speculative.base import Proposer


@dataclass(slots=True)
class Tally:
    """How drafting went for one request."""

    steps: int = 0
    proposed: int = 0
    accepted: int = 0


class Drafts:
    def __init__(self, proposer: Proposer | None, most: int) -> None:
        self._proposer = proposer
        self._most = most
        self._pending: dict[int, Ids] = {}  # by slot
        self._tallies: dict[RequestId, Tally] = {}

    def may_have(self, message: Generate) -> bool:
        return self._proposer is not None and message.drafts

    def propose(self, slots: Slots) -> None:
        """Guess for every request that decodes, has nothing in flight, and may have drafts."""
        if self._proposer is None:
            return
        rows = slots.running
        ready = slots.stepwise[rows] & (slots.in_flight[rows] == 0) & (slots.drafts[rows] == 0)
        ready &= slots.computed[rows] == slots.known[rows] - 1
        ready &= slots.computed[rows] == slots.done[rows]
        ready &= slots.computed[rows] >= slots.given[rows]
        for slot in rows[ready].tolist():
            known = int(slots.known[slot])
            room = int(slots.limit[slot]) - known - 1
            drafts = self._proposer.propose(slots.tokens(slot, 0, known), min(self._most, room))
            if len(drafts):
                self._pending[slot] = drafts
                slots.drafts[slot] = len(drafts)

    def take(self, slot: int, request: RequestId) -> Ids:
        """The drafts that the step being made verifies."""
        drafts = self._pending.pop(slot, NO_IDS)
        tally = self._tallies.setdefault(request, Tally())
        tally.steps += 1
        tally.proposed += len(drafts)
        return drafts

    def drop(self, slot: int) -> None:
        """Forget guesses that no step took, for a slot that is given up."""
        self._pending.pop(slot, None)

    def accepted(self, request: RequestId, count: int) -> None:
        self._tallies[request].accepted += count

    def end(self, request: RequestId) -> Tally:
        """A request's tally, which is then forgotten."""
        return self._tallies.pop(request, Tally())

    def __len__(self) -> int:
        return len(self._tallies)
