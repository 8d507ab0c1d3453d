"""The detectors are worth something: each is shown a state that was broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from espalier.protocol.arrays import ids
from espalier.protocol.messages import Finished, RequestId, StepOutput
from espalier.protocol.sampling import Sampling
from espalier.protocol.step import StepBatch, StepResult
from tests.system.world import Shape, World

GREEDY = Sampling(temperature=0.0)


def running_world() -> World:
    """Three run, of which two share a prefix, and two wait."""
    world = World(Shape(num_pages=60, page_size=4, max_running=3, max_step_tokens=64))
    for number in range(5):
        world.submit([1, 2, 3, 4, 5, 6, 7, 8, number + 9, 10], 20, GREEDY)
    for _ in range(4):
        world.step()
    assert len(world.scheduler.state.slots.running) == 3
    return world


def first(world: World) -> int:
    return int(world.scheduler.state.slots.running[0])


def break_held(world: World) -> None:
    world.scheduler.state.slots.held[first(world)] -= 1


def break_known(world: World) -> None:
    world.scheduler.state.slots.known[first(world)] += 5


def break_done(world: World) -> None:
    slots = world.scheduler.state.slots
    slots.done[first(world)] = slots.computed[first(world)] + 1


def break_computed(world: World) -> None:
    world.scheduler.state.slots.computed[first(world)] += 100


def break_shared(world: World) -> None:
    slots = world.scheduler.state.slots
    slots.shared[first(world)] = slots.held[first(world)] + 1


def break_settled(world: World) -> None:
    slots = world.scheduler.state.slots
    slots.settled[first(world)] = slots.known[first(world)] = slots.limit[first(world)]
    slots.held[first(world)] = 8
    slots.table[first(world), :8] = range(50, 58)


def break_free_slot(world: World) -> None:
    world.scheduler.state.slots.free.append(first(world))


def break_owner(world: World) -> None:
    world.scheduler.state.slots.ids[first(world)] += 1


def break_collection(world: World) -> None:
    state = world.scheduler.state
    del state.requests[state.slots.request(first(world)).id]


def break_queue_count(world: World) -> None:
    world.scheduler.state.queue.count += 1


def break_waiting_hold(world: World) -> None:
    state = world.scheduler.state
    state.queue.all()[0].hold = state.slots.request(first(world)).hold


def break_pin(world: World) -> None:
    hold = world.scheduler.state.slots.request(first(world)).hold
    assert hold is not None
    hold.node.pins += 1


def break_row(world: World) -> None:
    slots = world.scheduler.state.slots
    row = first(world)
    slots.table[row, [0, 1]] = slots.table[row, [1, 0]]


def break_ownership(world: World) -> None:
    slots = world.scheduler.state.slots
    one, other = slots.running[:2].tolist()
    slots.table[one, slots.held[one] - 1] = slots.table[other, slots.held[other] - 1]


BREAKS: list[tuple[Callable[[World], None], str]] = [
    (break_ownership, "I1"),
    (break_pin, "I3|I4"),
    (break_row, "I5"),
    (break_held, "I1|I6"),
    (break_known, "I6"),
    (break_done, "I6"),
    (break_computed, "I6"),
    (break_shared, "I6"),
    (break_free_slot, "I7"),
    (break_owner, "I7"),
    (break_collection, "I8"),
    (break_queue_count, "I8"),
    (break_waiting_hold, "I9"),
    (break_settled, "I10"),
]


@pytest.mark.parametrize(
    ("break_it", "invariant"), BREAKS, ids=lambda one: getattr(one, "__name__", "")
)
def test_a_broken_state_is_named(break_it: Callable[[World], None], invariant: str) -> None:
    world = running_world()
    world.check()
    break_it(world)
    with pytest.raises(AssertionError, match=rf"({invariant}):"):
        world.check()


def test_a_wrong_token_is_noticed() -> None:
    world = running_world()
    wait = world.executor.wait_for_tokens

    def lie(batch: StepBatch) -> StepResult:
        result = wait(batch)
        return replace(result, tokens=ids((result.tokens + 1) % 50))

    world.executor.wait_for_tokens = lie  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="I11"):
        world.step()


@pytest.mark.parametrize("again", ["a second end", "a token after the end"])
def test_an_end_that_is_not_the_last_is_noticed(again: str) -> None:
    world = running_world()
    number = world.live[0]
    world.abort(number)
    finished = (Finished(request=RequestId(number), reason="abort"),)
    none = again == "a second end"
    output = StepOutput(
        requests=ids([] if none else [number]).astype("int64"),
        counts=ids([] if none else [1]),
        tokens=ids([] if none else [3]),
        finished=finished if none else (),
    )
    world.scheduler.take_output = lambda: output  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="I10"):
        world.collect()


def test_a_page_that_is_used_while_somebody_reads_it_is_noticed() -> None:
    world = running_world()
    slots = world.scheduler.state.slots
    page = int(slots.table[first(world), 0])
    world.executor.token[page * 4] += 1
    with pytest.raises(AssertionError, match="I5"):
        world.step()


def test_another_namespace_is_noticed() -> None:
    world = running_world()
    slots = world.scheduler.state.slots
    page = int(slots.table[first(world), 0])
    world.executor.space[page * 4] = 7
    with pytest.raises(AssertionError, match="I13"):
        world.step()
