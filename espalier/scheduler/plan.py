"""Decide who computes how many tokens next. Pure: numbers in, numbers out.

There are no phases. Requests that run are served first, those that want least (one token, or one
and its drafts) before long prompts, so a long prompt never holds up a stream; what is left of the
step's tokens goes to prompts, and then to those who wait. `commit.py` carries the plan out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from espalier.protocol.arrays import NO_IDS, Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the scheduler keeps to. All settled at start."""

    max_step_tokens: int
    chunk_tokens: int  # of one prompt in one step
    max_running: int
    page_size: int
    context_length: int
    vocabulary: int
    capacity: int  # tokens that fit the cache
    max_queued: int
    max_queued_tokens: int
    look_ahead: int = 0
    max_drafts: int = 0
    queue_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The running requests as planning sees them, in order of service."""

    slots: Ids
    computed: Ids
    wants: Ids  # tokens it could compute now, drafts included; 0: it waits for a result
    known: Ids  # drafts included
    drafts: Ids
    held: Ids
    own: Ids  # pages that come free if it is put back
    idle: npt.NDArray[np.bool_]  # nothing of it is in flight, so it may be put back
    free_pages: int  # free, or evictable


@dataclass(frozen=True, slots=True)
class RunningPlan:
    """Chunks for running requests, and who is put back to make room for them."""

    slots: Ids
    counts: Ids
    pages: Ids  # new pages each chunk needs
    preempted: Ids = field(default_factory=lambda: NO_IDS)
    starved: bool = False  # somebody sits this step out for want of a page


def pages_for(tokens: Ids, page_size: int) -> Ids:
    rounded: Ids = -(-tokens // page_size)
    return rounded


def plan_running(view: View, budget: int, chunk: int, page_size: int) -> RunningPlan:
    """Chunks within `budget` tokens and the view's free pages."""
    counts = _counts(view, budget, chunk)
    ends = view.computed + counts
    # The token after a chunk, chosen or scored by it, has its place before the worker knows it.
    pages = np.maximum(pages_for(ends + 1, page_size) - view.held, 0)
    pages[counts == 0] = 0
    if int(pages.sum()) <= view.free_pages:
        if counts.all():
            return RunningPlan(view.slots, counts, pages)
        chosen = counts > 0
        return RunningPlan(view.slots[chosen], counts[chosen], pages[chosen])
    return _under_pressure(view, counts, pages)


def _counts(view: View, budget: int, chunk: int) -> Ids:
    least = np.minimum(view.wants, 1 + view.drafts)
    left = budget - int(least.sum())
    assert left >= 0, "a step holds a token for every running request and its drafts"
    if (least == view.wants).all():
        return least
    counts = np.where(least == view.wants, least, 0).astype(np.int32)
    left = budget - int(counts.sum())
    for row in np.flatnonzero(least != view.wants):
        counts[row] = min(int(view.wants[row]), chunk, left)
        left -= int(counts[row])
    return counts


def _under_pressure(view: View, counts: Ids, pages: Ids) -> RunningPlan:
    """Too few pages: who comes last in service is put back, until the others fit.

    Nobody is put back while a step is in flight: pages come free only when it has landed. Then
    whoever lacks a page is starved, and no step is made until then.
    """
    free, last = view.free_pages, len(counts) - 1
    chosen: list[int] = []
    preempted: list[int] = []
    row, starved = 0, False
    while row <= last:
        need = int(pages[row])
        while need > free and last > row and view.idle[last]:
            free += int(view.own[last])
            preempted.append(last)
            last -= 1
        if need <= free:
            if counts[row]:
                free -= need
                chosen.append(row)
        elif row == last and row > 0 and view.idle[row]:
            preempted.append(row)
        else:
            starved = True
        row += 1
    rows = np.array(chosen, np.int32)
    out = np.array(preempted, np.int32)
    return RunningPlan(view.slots[rows], counts[rows], pages[rows], view.slots[out], starved)


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of a step for those who wait."""

    tokens: int
    pages: int  # free or evictable, without what the running ones still need for their prompts
    running: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One who waits, as planning sees it."""

    known: int
    start: int  # so many tokens come from the cache
    shared: int  # in so many whole pages,
    taken: int  # of which so many are evictable now, and would not be any more


def tokens_to_admit(room: Room, candidate: Candidate, chunk: int, page_size: int) -> int:
    """How many tokens a candidate may compute at once; 0 when it must go on waiting.

    Its whole prompt must fit, and a page for each running request, or the newcomer would be put
    back as soon as it came.
    """
    pages = -(-(candidate.known + 1) // page_size) - candidate.shared + candidate.taken
    if room.tokens <= 0 or pages + room.running > room.pages:
        return 0
    return min(candidate.known - candidate.start, chunk, room.tokens)
