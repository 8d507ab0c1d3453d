"""Who joins the step from the queue, one after the other, each seeing what those before it share.

Two requests of one burst with the same prefix do not both compute it. While the first computes it
over several steps, the second waits if that spares it much; and when only the unfinished page of
the first is missing, it waits one step for that.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from msgspec.structs import replace

from espalier.protocol.messages import Admitted, Failure
from espalier.protocol.sampling import LogprobsWanted
from espalier.protocol.step import Join
from espalier.scheduler.commit import Draft, commit_prompt
from espalier.scheduler.ending import end, put_back
from espalier.scheduler.guard import guarded
from espalier.scheduler.plan import Candidate, Room, tokens_to_admit
from espalier.scheduler.policy import Queued
from espalier.scheduler.request import Request
from espalier.scheduler.standing import look_up, stand_on
from espalier.scheduler.state import State

# A shorter common beginning (a chat's opening tags, say) is computed again rather than waited for.
WORTH_WAITING = 32


def join_waiting(state: State, tokens: int, draft: Draft) -> None:
    """Let in whoever fits, in the queue's order; the first who does not fit stops the rest."""
    for request in state.queue.candidates(lambda one: _queued(state, one), state.clock()):
        if tokens <= 0 or not state.slots.free:
            break
        if _waits(state, request):
            state.totals.waits += 1
            continue
        count = _tokens_for(state, request, tokens)
        if not count:
            break
        before = draft.num_tokens
        guarded(
            partial(_join, state, request, count, draft),
            partial(_fail, state, request),
        )
        tokens -= draft.num_tokens - before


def make_way(state: State) -> bool:
    """Put back running requests of lower priority than the first in the queue, until that fits.

    They go from the end of the service order, one at a time. True: a step in flight must land
    before anybody can be put back, and no other should be made meanwhile.
    """
    first = state.queue.first()
    while first is not None and len(state.slots.running):
        last = int(state.slots.running[-1])
        lower = state.slots.request(last).message.priority < first.message.priority
        if not lower or _fits(state, first):
            return False
        if state.flights:
            return True
        put_back(state, last)
    return False


def _fits(state: State, request: Request) -> bool:
    return bool(state.slots.free) and _tokens_for(state, request, 1) > 0


def _tokens_for(state: State, request: Request, tokens: int) -> int:
    match = look_up(state, request)
    candidate = Candidate(
        known=len(request.tokens),
        start=match.length,
        shared=match.whole // state.limits.page_size,
        taken=state.cache.num_unpinned(match),
    )
    running = len(state.slots.running)
    room = Room(tokens, state.cache.num_available - state.promised_pages(), running)
    return tokens_to_admit(room, candidate, state.limits.chunk_tokens, state.limits.page_size)


def _waits(state: State, request: Request) -> bool:
    """Whether another request computes so much of its prompt right now that waiting pays."""
    if not state.cache.sharing:
        return False
    match = look_up(state, request)
    ahead = max((_common(state, request, slot) for slot in _under_way(state)), default=0)
    if ahead >= match.length + WORTH_WAITING:
        return True
    if match.awaited and not request.waited and match.whole + match.awaited >= WORTH_WAITING:
        request.waited = True
        return True
    return False


def _under_way(state: State) -> list[int]:
    """Slots whose prompt is only partly planned: few, since a step's tokens are soon spent."""
    rows = state.slots.running
    partly: list[int] = rows[state.slots.computed[rows] < state.slots.given[rows]].tolist()
    return partly


def _common(state: State, request: Request, slot: int) -> int:
    """Tokens that a request's prompt shares with the one in a slot, if it may use them."""
    other = state.slots.request(slot)
    if other.message.namespace != request.message.namespace or other.unscored_from is not None:
        return 0
    size = min(request.match_limit, len(other.tokens))
    differ = np.flatnonzero(request.tokens[:size] != other.tokens[:size])
    return int(differ[0]) if differ.size else size


def _fail(state: State, request: Request, failure: Failure) -> None:
    end(state, request, "error", failure=failure)


def _join(state: State, request: Request, count: int, draft: Draft) -> None:
    match = look_up(state, request)
    state.queue.remove(request)
    slot = state.slots.take(request, stepwise=state.drafts.may_have(request.message))
    stand_on(state, slot, match, draft.changes)
    message = request.message
    draft.joins.append(
        Join(slot, message.sampling, request.prompt_length, _wanted(request), message.namespace)
    )
    cached = int(state.slots.computed[slot])
    state.totals.cached_tokens += cached
    if request.cached < 0:
        request.cached = min(cached, request.prompt_length)
        state.out.admitted.append(Admitted(request.id, request.cached))
    count = min(count, len(request.tokens) - cached)
    commit_prompt(state, slot, count, draft)


def _wanted(request: Request) -> LogprobsWanted | None:
    """What is still to be reported: after it was put back, not what was reported before."""
    wanted = request.message.logprobs
    if wanted is None or wanted.prompt_from < 0:
        return wanted
    first = request.unscored_from
    return replace(wanted, prompt_from=-1 if first is None else max(wanted.prompt_from, first + 1))


def _queued(state: State, request: Request) -> Queued:
    match = look_up(state, request)
    return Queued(
        sequence=request.sequence,
        arrival=request.arrival,
        prompt=len(request.tokens),
        cached=match.length,
        place=id(match.node),
        max_tokens=request.message.max_tokens,
    )
