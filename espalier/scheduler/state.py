"""The scheduler's state in one place: who waits, who runs, what is in flight, what is to be said.

The modules beside it act on it: `joining` and `commit` before a step, `apply` after it, `ending`
whenever a request ends or is put back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from espalier.cache.prefix import PrefixCache
from espalier.protocol.arrays import NO_IDS, Ids, LongIds
from espalier.protocol.messages import Admitted, Finished, Logprobs, RequestId
from espalier.scheduler.drafts import Drafts
from espalier.scheduler.pace import Pace
from espalier.scheduler.plan import Limits
from espalier.scheduler.queue import Queue
from espalier.scheduler.request import Request
from espalier.scheduler.slots import Slots

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Flight:
    """A step on its way: enough to take its result in, even for requests that ended meanwhile."""

    number: int
    slots: Ids
    ids: LongIds
    starts: Ids
    counts: Ids
    samples: Ids
    sent_at: float


@dataclass(slots=True)
class Outgoing:
    """What the next message to the front end will say."""

    requests: list[LongIds] = field(default_factory=list)
    counts: list[Ids] = field(default_factory=list)
    tokens: list[Ids] = field(default_factory=list)
    admitted: list[Admitted] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)


@dataclass(slots=True)
class Totals:
    """Counters since the start."""

    steps: int = 0
    prompt_tokens: int = 0  # computed, not found in the cache
    cached_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    failed_steps: int = 0
    waits: int = 0  # times a request waited for a prefix that another was computing


@dataclass(slots=True, eq=False)
class State:
    limits: Limits
    cache: PrefixCache
    queue: Queue
    slots: Slots
    drafts: Drafts
    pace: Pace
    clock: Clock
    requests: dict[RequestId, Request] = field(default_factory=dict)  # all that did not end
    flights: deque[Flight] = field(default_factory=deque)
    arrivals: deque[Request] = field(default_factory=deque)  # in that order, if waiting is limited
    leaves: list[int] = field(default_factory=list)  # slots the worker is to forget
    out: Outgoing = field(default_factory=Outgoing)
    totals: Totals = field(default_factory=Totals)
    number: int = 0  # of the newest step
    sequence: int = 0
    seen_version: int = -1  # of the cache, when the running prompts were last looked up

    def set_fence(self) -> None:
        """Pages freed from now on are used again only when every step in flight has landed."""
        self.cache.fence = self.flights[-1].number if self.flights else 0

    def promised_pages(self) -> int:
        """Pages that running requests will need before their next token, and do not hold yet."""
        rows = self.slots.running
        tokens = self.slots.known[rows] + self.slots.drafts[rows] + 1
        missing = -(-tokens // self.limits.page_size) - self.slots.held[rows]
        return int(np.maximum(missing, 0).sum())


def joined(arrays: list[Ids]) -> Ids:
    """The arrays one after the other."""
    if not arrays:
        return NO_IDS
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
