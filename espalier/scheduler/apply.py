"""Take a step's result in: tokens settle, requests end, pages filled become everyone's.

All rows at once, as arrays; Python objects are touched only for requests that end. Rows of
requests that ended while the step was under way are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from espalier.errors import EngineError, NumericalError
from espalier.protocol.arrays import Floats, Ids
from espalier.protocol.messages import Logprobs
from espalier.protocol.step import NOT_A_NUMBER, OK, StepResult
from espalier.scheduler.ending import end
from espalier.scheduler.guard import failure_of
from espalier.scheduler.state import Flight, State

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """The sampled rows of a step that still matter, and where their tokens begin in the result."""

    slots: Ids
    counts: Ids
    first: Ids
    starts: Ids
    samples: Ids


@dataclass(frozen=True, slots=True)
class Kept:
    """Per row: how many tokens stand, and which token ended it (-1: none, or its length did)."""

    counts: Ids
    ended: Flags
    matched: Ids


def apply(state: State, result: StepResult) -> None:
    flight = state.flights.popleft()
    assert flight.number == result.number, "results come in the order of their steps"
    state.cache.settle(flight.number)
    state.set_fence()
    slots = state.slots
    alive = slots.ids[flight.slots] == flight.ids
    _settle_computed(state, flight, alive)
    rows, failed = _rows(flight, result, alive)
    if len(rows.slots):
        kept = _settle_tokens(state, rows, result.tokens)
        _say(state, rows, kept, result)
        if result.logprobs is not None:
            _say_logprobs(state, flight, result.logprobs)
        _end_finished(state, rows, kept)
    elif result.logprobs is not None:
        _say_logprobs(state, flight, result.logprobs)
    for slot, status in failed:
        end(state, slots.request(slot), "error", failure=failure_of(_error(status)))


def _settle_computed(state: State, flight: Flight, alive: Flags) -> None:
    slots = state.slots
    if alive.all():
        slots.done[flight.slots] = flight.starts + flight.counts
    else:
        slots.done[flight.slots[alive]] = (flight.starts + flight.counts)[alive]


def _rows(flight: Flight, result: StepResult, alive: Flags) -> tuple[Rows, list[tuple[int, int]]]:
    sampled = flight.samples > 0
    first = np.cumsum(result.counts, dtype=np.int32) - result.counts
    good = alive[sampled] & (result.status == OK)
    slots, starts, samples = (
        column[sampled] for column in (flight.slots, flight.starts, flight.samples)
    )
    bad = alive[sampled] & (result.status != OK)
    failed = list(zip(slots[bad].tolist(), result.status[bad].tolist(), strict=True))
    if good.all():
        return Rows(slots, result.counts, first, starts, samples), failed
    return (
        Rows(slots[good], result.counts[good], first[good], starts[good], samples[good]),
        failed,
    )


def _settle_tokens(state: State, rows: Rows, tokens: Ids) -> Kept:
    slots = state.slots
    before = slots.settled[rows.slots]
    kept = _single(state, rows, tokens, before)
    if kept is None:
        kept = _several(state, rows, tokens, before)
    after = before + kept.counts
    slots.settled[rows.slots] = after
    slots.in_flight[rows.slots] -= 1
    slots.known[rows.slots] = after + slots.in_flight[rows.slots]
    drafted = rows.samples > 1
    if drafted.any():
        _settle_drafts(state, rows, drafted)
    return kept


def _single(state: State, rows: Rows, tokens: Ids, before: Ids) -> Kept | None:
    """The usual case: one token for every row."""
    if len(tokens) != len(rows.slots):
        return None if (rows.counts > 1).any() else _single(state, rows, tokens[rows.first], before)
    if (rows.counts > 1).any():
        return None
    slots, size = state.slots, state.limits.page_size
    pages = slots.table[rows.slots, before // size]
    slots.pool[pages * size + before % size] = tokens
    ended, stopped = _endings(state, rows.slots, tokens, before)
    return Kept(rows.counts, ended, np.where(stopped, tokens, -1))


def _several(state: State, rows: Rows, tokens: Ids, before: Ids) -> Kept:
    """Rows of one or more tokens: each is cut after the first that ends it."""
    slots, size = state.slots, state.limits.page_size
    owner = np.repeat(np.arange(len(rows.slots)), rows.counts)
    begin = np.cumsum(rows.counts) - rows.counts
    place = np.arange(len(owner)) - begin[owner]
    flat = tokens[rows.first[owner] + place]
    positions = (before[owner] + place).astype(np.int32)
    ended, stopped = _endings(state, rows.slots[owner], flat, positions)
    cut = np.where(ended, place, rows.counts[owner] - 1)
    last = np.minimum.reduceat(cut, begin).astype(np.int32)
    keep = place <= last[owner]
    pages = slots.table[rows.slots[owner[keep]], positions[keep] // size]
    slots.pool[pages * size + positions[keep] % size] = flat[keep]
    final = begin + last
    matched = np.where(stopped[final], flat[final], -1)
    return Kept((last + 1).astype(np.int32), ended[final], matched)


def _endings(state: State, rows: Ids, tokens: Ids, positions: Ids) -> tuple[Flags, Flags]:
    """Which tokens end their request, and which of these because they are stop tokens."""
    slots = state.slots
    stopped = (slots.stops[rows] == tokens[:, None]).any(axis=1)
    stopped &= positions >= slots.least[rows]
    full = positions + 1 >= slots.limit[rows]
    return stopped | full, stopped


def _settle_drafts(state: State, rows: Rows, drafted: Flags) -> None:
    """Keys and values of drafts that did not stand are not to be counted as computed."""
    slots = state.slots
    chosen = rows.slots[drafted]
    # The last known token before the drafts, and those drafts that were right.
    valid = slots.settled[chosen] - 1
    slots.computed[chosen] = slots.done[chosen] = valid
    for slot, count in zip(chosen.tolist(), rows.counts[drafted].tolist(), strict=True):
        state.drafts.accepted(slots.request(slot).id, count - 1)


def _say(state: State, rows: Rows, kept: Kept, result: StepResult) -> None:
    tokens = result.tokens
    if len(tokens) != len(rows.slots) or (kept.counts != 1).any():
        owner = np.repeat(np.arange(len(rows.slots)), kept.counts)
        begin = np.cumsum(kept.counts) - kept.counts
        tokens = tokens[rows.first[owner] + np.arange(len(owner)) - begin[owner]]
    state.out.requests.append(state.slots.ids[rows.slots])
    state.out.counts.append(kept.counts)
    state.out.tokens.append(tokens)
    state.totals.output_tokens += len(tokens)


def _end_finished(state: State, rows: Rows, kept: Kept) -> None:
    if not kept.ended.any():
        return
    for row in np.flatnonzero(kept.ended).tolist():
        matched = int(kept.matched[row])
        request = state.slots.request(int(rows.slots[row]))
        end(state, request, "length" if matched < 0 else "stop", matched=matched)


def _say_logprobs(state: State, flight: Flight, logprobs: Logprobs) -> None:
    """Rows of requests that are still there, up to the last token that stands."""
    slots = flight.slots[logprobs.owners]
    ids = flight.ids[logprobs.owners]
    keep = (state.slots.ids[slots] == ids) & (logprobs.positions < state.slots.settled[slots])
    if keep.all():
        picked = logprobs
    else:
        picked = _picked(logprobs, keep)
        ids = ids[keep]
    state.out.logprobs.append(
        Logprobs(
            owners=ids,
            positions=picked.positions,
            tokens=picked.tokens,
            values=picked.values,
            top_counts=picked.top_counts,
            top_tokens=picked.top_tokens,
            top_values=picked.top_values,
            listed_counts=picked.listed_counts,
            listed_tokens=picked.listed_tokens,
            listed_values=picked.listed_values,
        )
    )


def _picked(logprobs: Logprobs, keep: Flags) -> Logprobs:
    def ragged(counts: Ids, tokens: Ids, values: Floats) -> tuple[Ids, Ids, Floats]:
        each = np.repeat(keep, counts)
        return counts[keep], tokens[each], values[each]

    top = ragged(logprobs.top_counts, logprobs.top_tokens, logprobs.top_values)
    listed = ragged(logprobs.listed_counts, logprobs.listed_tokens, logprobs.listed_values)
    return Logprobs(
        owners=logprobs.owners[keep],
        positions=logprobs.positions[keep],
        tokens=logprobs.tokens[keep],
        values=logprobs.values[keep],
        top_counts=top[0],
        top_tokens=top[1],
        top_values=top[2],
        listed_counts=listed[0],
        listed_tokens=listed[1],
        listed_values=listed[2],
    )


def _error(status: int) -> EngineError:
    if status == NOT_A_NUMBER:
        return NumericalError("the model's logits held a value that is not a number")
    return EngineError(
        "no token was left to choose from",
        hint="allow more tokens: allowed_token_ids, logit_bias, bad_words and min_new_tokens "
        "together forbid every one",
    )
