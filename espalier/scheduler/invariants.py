"""What must be true between steps, whatever happened. Always checked in tests; cheap enough for a
debug run of the real thing.

The numbers are those of the reliability contract (I1 to I20); the cache checks I1 to I5 itself.
"""

from __future__ import annotations

from espalier.cache.check import pins_recounted
from espalier.scheduler.state import State


def check(state: State) -> None:
    """Raise AssertionError naming the first invariant that does not hold."""
    _check_slots(state)
    _check_numbers(state)
    _check_collections(state)
    _check_limits(state)
    owned = {slot: state.slots.own_pages(slot) for slot in state.slots.running.tolist()}
    state.cache.check(owned)
    _check_pins(state)
    for slot in state.slots.running.tolist():
        _check_path(state, slot)
    if not state.requests and not state.flights:
        statistics = state.cache.statistics()
        assert not statistics.pinned, "I20: idle, and yet pages are pinned"
        assert not len(state.drafts), "I9: idle, and yet drafts are kept"


def _check_slots(state: State) -> None:
    slots = state.slots
    running = slots.running.tolist()
    taken = [slot for slot, request in enumerate(slots.requests) if request is not None]
    assert sorted(running) == taken, "I7: the running list and the slots differ"
    assert sorted(taken + slots.free) == list(range(len(slots.requests))), (
        "I7: a slot is both free and used, or neither"
    )
    for slot in taken:
        request = slots.request(slot)
        assert request.slot == slot, f"I7: request {request.id} thinks it is in {request.slot}"
        assert slots.ids[slot] == request.id, f"I7: slot {slot} is marked for another request"


def _check_numbers(state: State) -> None:
    slots, size = state.slots, state.limits.page_size
    for slot in slots.running.tolist():
        shared, held = int(slots.shared[slot]), int(slots.held[slot])
        done, computed = int(slots.done[slot]), int(slots.computed[slot])
        settled, known = int(slots.settled[slot]), int(slots.known[slot])
        assert 0 <= shared <= held, f"I6: slot {slot} shares {shared} of {held} pages"
        assert 0 <= done <= computed, f"I6: slot {slot} has {done} done of {computed}"
        assert computed <= held * size, f"I6: slot {slot} computed past its pages"
        top = known + state.limits.max_drafts + 1
        assert held <= -(-top // size), f"I6: slot {slot} holds {held} pages for {top} tokens"
        assert known == settled + int(slots.in_flight[slot]), f"I6: slot {slot} miscounts"
        assert settled < slots.limit[slot], f"I10: slot {slot} is complete and still runs"


def _check_collections(state: State) -> None:
    waiting = {request.id for request in state.queue.all()}
    running = {state.slots.request(slot).id for slot in state.slots.running.tolist()}
    assert not waiting & running, "I8: a request both waits and runs"
    assert waiting | running == set(state.requests), "I8: a request is in no collection"
    assert len(waiting) == len(state.queue), "I8: the queue miscounts"
    tokens = sum(len(request.tokens) for request in state.queue.all())
    assert tokens == state.queue.num_tokens, "I8: the queue miscounts its tokens"
    for request in state.queue.all():
        nothing = request.hold is None and request.loan is None and request.slot < 0
        assert nothing, f"I9: request {request.id} waits and holds something"


def _check_limits(state: State) -> None:
    limits = state.limits
    assert len(state.slots.running) <= limits.max_running, "I12: too many run"
    assert len(state.flights) <= limits.look_ahead + 1, "I12: too many steps are in flight"
    for flight in state.flights:
        assert int(flight.counts.sum()) <= limits.max_step_tokens, "I12: a step is too large"
    fresh = sum(not request.preemptions for request in state.queue.all())
    assert fresh <= limits.max_queued, "I15: the queue is longer than its limit"


def _check_pins(state: State) -> None:
    cache = state.cache
    holds = [state.slots.request(slot).hold for slot in state.slots.running.tolist()]
    nodes = [hold.node for hold in (*holds, *cache.deferred_holds) if hold is not None]
    counted = pins_recounted(nodes)
    for node in (*cache.tree.nodes(), *cache.stale):
        assert node.pins == counted[node], f"I3: {node.pins} pins for {counted[node]} holds"


def _check_path(state: State, slot: int) -> None:
    request = state.slots.request(slot)
    shared = int(state.slots.shared[slot])
    assert request.hold is not None, f"I3: request {request.id} runs and holds no path"
    pages = state.cache.pages(request.hold)
    row = state.slots.table[slot, :shared]
    assert pages.tolist() == row.tolist(), f"I5: slot {slot}'s row is not its path in the tree"
