"""Carry a plan out: pages, the tree, the columns, and the batch that tells the worker.

Running requests that only decode are handled all at once, as arrays. A prompt's chunk is handled
by itself: its tokens go along, and what it fills is entered in the tree, pending, so that whoever
joins next in this very step can stand on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from espalier.protocol.arrays import NO_IDS, Ids
from espalier.protocol.step import Join, StepBatch
from espalier.scheduler.plan import RunningPlan
from espalier.scheduler.standing import Changes, share
from espalier.scheduler.state import Flight, State, joined


@dataclass(slots=True)
class Draft:
    """A batch in the making. One that came to nothing is gone on with: its news is not lost."""

    number: int
    columns: list[Ids] = field(default_factory=list)  # [5, C]: slot, start, count, samples, logits
    supplied: list[Ids] = field(default_factory=list)
    ahead: list[Ids] = field(default_factory=list)
    tokens: list[Ids] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    joins: list[Join] = field(default_factory=list)
    num_tokens: int = 0
    preempted: int = 0  # requests put back to make room; then nobody joins

    def add(self, columns: Ids, supplied: Ids, ahead: Ids) -> None:
        self.columns.append(columns)
        self.supplied.append(supplied)
        self.ahead.append(ahead)
        self.num_tokens += int(columns[2].sum())


def commit_running(state: State, plan: RunningPlan, draft: Draft) -> None:
    slots = state.slots
    if not len(plan.slots):
        return
    is_prompt = slots.computed[plan.slots] < slots.given[plan.slots]
    if is_prompt.any():
        rows = ~is_prompt
        for slot, count in zip(plan.slots[is_prompt], plan.counts[is_prompt], strict=True):
            commit_prompt(state, int(slot), int(count), draft)
        plan = RunningPlan(plan.slots[rows], plan.counts[rows], plan.pages[rows])
    if len(plan.slots):
        _commit_decoding(state, plan, draft)


def commit_prompt(state: State, slot: int, count: int, draft: Draft) -> bool:
    """The next `count` tokens that we give; False if there was no page for them after all."""
    slots, size = state.slots, state.limits.page_size
    request = slots.request(slot)
    start = int(slots.computed[slot])
    end = start + count
    samples = int(end == slots.known[slot])
    need = -(-(end + 1) // size) - int(slots.held[slot])
    if need > 0:
        pages = state.cache.allocate(need)
        if pages is None:
            return False
        draft.changes.row(slot, int(slots.held[slot]), pages)
        slots.append_pages(slot, pages)
    tokens = request.tokens[start:end]
    slots.write(slot, start, tokens)
    first = request.unscored_from
    logits = samples if first is None else max(samples, end - max(start, first))
    columns = np.array([[slot], [start], [count], [samples], [logits]], np.int32)
    ahead = int(logits > samples and not samples)
    draft.add(columns, np.array([count + ahead], np.int32), np.array([ahead], np.int32))
    draft.tokens.append(request.tokens[start : end + ahead])
    slots.computed[slot] = end
    if samples:
        slots.known[slot] += 1
        slots.in_flight[slot] += 1
    share(state, slot, end, draft.number, draft.changes)
    state.totals.prompt_tokens += count
    return True


def _commit_decoding(state: State, plan: RunningPlan, draft: Draft) -> None:
    """One token each, or one and its drafts; the worker knows all but the drafts."""
    slots, rows = state.slots, plan.slots
    if plan.pages.any():
        _grant(state, plan, draft)
    starts = slots.computed[rows]
    drafts = slots.drafts[rows]
    samples = 1 + drafts
    none = np.zeros(len(rows), np.int32)
    draft.add(np.stack((rows, starts, plan.counts, samples, samples)), drafts, none)
    slots.computed[rows] = starts + plan.counts
    slots.in_flight[rows] += 1
    slots.known[rows] += 1
    if drafts.any():
        for slot in rows[drafts > 0].tolist():
            draft.tokens.append(state.drafts.take(slot, slots.request(slot).id))
        slots.drafts[rows] = 0


def _grant(state: State, plan: RunningPlan, draft: Draft) -> None:
    slots, cache = state.slots, state.cache
    pages = cache.allocate(int(plan.pages.sum()))
    assert pages is not None, "the plan counted the pages that are free or evictable"
    rows = np.repeat(plan.slots, plan.pages)
    before = np.cumsum(plan.pages) - plan.pages
    place = np.arange(len(pages), dtype=np.int32) - np.repeat(before, plan.pages)
    indexes = (slots.held[rows] + place).astype(np.int32)
    slots.widen(int(indexes.max()) + 1)
    slots.table[rows, indexes] = pages
    slots.held[plan.slots] += plan.pages
    draft.changes.slots.append(rows)
    draft.changes.indexes.append(indexes)
    draft.changes.pages.append(pages)


def finish(state: State, draft: Draft) -> StepBatch:
    """The batch, and a record of it among what is in flight."""
    columns = draft.columns[0] if len(draft.columns) == 1 else np.concatenate(draft.columns, axis=1)
    slots, starts, counts, samples, logits = columns
    leaves = np.array(state.leaves, np.int32) if state.leaves else NO_IDS
    state.leaves = []
    batch = StepBatch(
        draft.number,
        slots,
        starts,
        counts,
        samples,
        logits,
        joined(draft.supplied),
        joined(draft.ahead),
        joined(draft.tokens),
        (draft.changes.made(),),
        tuple(draft.joins),
        leaves,
    )
    ids = state.slots.ids[slots]
    now = state.clock()
    state.flights.append(Flight(draft.number, slots, ids, starts, counts, samples, now))
    state.set_fence()
    state.totals.steps += 1
    return batch
