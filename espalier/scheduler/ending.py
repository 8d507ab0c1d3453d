"""How a request leaves its slot: for good, or back to the queue. Nothing it computed is lost.

What it computed goes to the tree, its unfinished page included, so that whoever continues it (the
request itself after it was put back, or the next turn of a chat) starts from there.
"""

from __future__ import annotations

from espalier.protocol.messages import Failure, Finished, FinishReason
from espalier.scheduler.request import Request
from espalier.scheduler.state import State


def end(
    state: State,
    request: Request,
    reason: FinishReason,
    *,
    matched: int = -1,
    failure: Failure | None = None,
) -> None:
    """A request's terminal event, and everything it held given back."""
    assert request.phase != "ended", f"request {request.id} ended twice"
    if request.phase == "waiting":
        state.queue.remove(request)
    else:
        _leave(state, request, poisoned=reason == "error")
    request.phase = "ended"
    del state.requests[request.id]
    tally = state.drafts.end(request.id)
    state.totals.finished += 1
    state.out.finished.append(
        Finished(
            request=request.id,
            reason=reason,
            matched=matched,
            failure=failure,
            num_preemptions=request.preemptions,
            draft_steps=tally.steps,
            drafts_proposed=tally.proposed,
            drafts_accepted=tally.accepted,
        )
    )


def put_back(state: State, slot: int) -> None:
    """Back to the queue, in its old place; it will find what it computed in the tree."""
    request = state.slots.request(slot)
    slots = state.slots
    settled = int(slots.settled[slot])
    done = int(slots.done[slot])
    tokens = slots.tokens(slot, 0, settled).copy()
    if request.message.logprobs is not None:
        request.scored = max(request.scored, min(done, request.prompt_length))
    _leave(state, request, poisoned=False)
    request.tokens = tokens
    request.match = None
    request.preemptions += 1
    state.totals.preemptions += 1
    state.queue.add(request)


def _leave(state: State, request: Request, *, poisoned: bool) -> None:
    """Give up the slot. What a request in error computed is not to be trusted, nor kept."""
    slots, slot = state.slots, request.slot
    state.set_fence()
    if request.loan is not None:
        state.cache.withdraw(request.loan)
        request.loan = None
    if poisoned:
        _discard(state, request)
    else:
        _bequeath(state, request)
    request.hold = None
    state.drafts.drop(slot)
    slots.leave(slot)
    state.leaves.append(slot)


def _bequeath(state: State, request: Request) -> None:
    """Everything settled goes to the tree; pages with nothing settled are freed."""
    slots, cache, slot = state.slots, state.cache, request.slot
    size = state.limits.page_size
    shared, held = int(slots.shared[slot]), int(slots.held[slot])
    done = int(slots.done[slot])
    whole = max(done // size, shared)
    pages = slots.table[slot, :held].copy()
    hold = request.hold
    assert hold is not None, "a running request stands on a path, if only on the root"
    if not cache.sharing:
        cache.free(pages[shared:])
        cache.release(hold)
        return
    if whole > shared:
        tokens = slots.tokens(slot, shared * size, whole * size)
        priority = request.message.priority
        hold = cache.extend(hold, tokens, pages[shared:whole], step=0, priority=priority).hold
    used = whole
    if done > whole * size:
        cache.keep_tail(hold, slots.tokens(slot, whole * size, done), int(pages[whole]))
        used += 1
    cache.free(pages[used:])
    cache.release(hold)


def _discard(state: State, request: Request) -> None:
    """What it computed leaves the tree with it; what others had computed before stays."""
    slots, cache, slot = state.slots, state.cache, request.slot
    assert request.hold is not None, "a running request stands on a path, if only on the root"
    cache.free(slots.own_pages(slot))
    cache.discard(request.hold, request.matched)
    cache.release(request.hold)
