"""The queue against a sorted list, and every policy against what a policy is."""

from __future__ import annotations

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.protocol.arrays import ids
from espalier.protocol.messages import Generate, RequestId
from espalier.scheduler.policy import PATIENCE_S, POLICIES, Queued, order
from espalier.scheduler.queue import WINDOW, Queue
from espalier.scheduler.request import Request

queued = st.builds(
    Queued,
    sequence=st.integers(0, 10**6),
    arrival=st.floats(0, 100),
    prompt=st.integers(1, 100),
    cached=st.integers(0, 50),
    place=st.integers(0, 3),
    max_tokens=st.integers(1, 100),
)
queues = st.lists(queued, max_size=30, unique_by=lambda one: one.sequence)


def request(sequence: int, priority: int = 0) -> Request:
    message = Generate(
        request=RequestId(sequence), prompt=ids([1]), max_tokens=1, priority=priority
    )
    return Request(message, ids([1]), 0.0, sequence)


def look(one: Request) -> Queued:
    return Queued(one.sequence, one.arrival, 1, 0, 0, 1)


def served(queue: Queue) -> list[int]:
    """Take all in the order in which they would join."""
    taken: list[int] = []
    while len(queue):
        one = next(queue.candidates(look, 0.0))
        queue.remove(one)
        one.phase = "running"
        taken.append(one.sequence)
    return taken


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=300))
def test_it_serves_by_priority_and_arrival_whatever_happens(events: list[tuple[bool, int]]) -> None:
    queue, model = Queue(None), []
    for sequence, (adds, priority) in enumerate(events):
        if adds or not model:
            one = request(sequence, priority)
            queue.add(one)
            model.append(one)
        else:
            gone = model.pop(sequence % len(model))
            queue.remove(gone)
            gone.phase = "ended"
        assert len(queue) == len(model) == queue.num_tokens
        assert set(queue.all()) == set(model)
    assert served(queue) == [one.sequence for one in sorted(model, key=lambda one: one.order)]


def test_one_who_was_put_back_goes_before_those_who_came_later() -> None:
    queue = Queue(None)
    for sequence in range(10, 10 + 2 * WINDOW):
        queue.add(request(sequence))
    queue.add(request(3))
    assert served(queue)[:3] == [3, 10, 11]


def test_a_policy_never_sees_more_than_the_window() -> None:
    seen: list[int] = []

    def policy(queue: list[Queued], now: float) -> list[Queued]:
        del now
        seen.append(len(queue))
        return queue

    queue = Queue(policy)  # type: ignore[arg-type]
    for sequence in range(10_000):
        queue.add(request(sequence))
    assert next(queue.candidates(look, 0.0)).sequence == 0
    assert seen == [WINDOW]


@pytest.mark.parametrize("name", POLICIES.names())
@given(queue=queues)
def test_a_policy_is_a_permutation_and_pure(name: str, queue: list[Queued]) -> None:
    policy = POLICIES.get(name)
    before = copy.copy(queue)
    once, twice = list(policy(queue, 5.0)), list(policy(queue, 5.0))
    assert once == twice
    assert queue == before
    assert sorted(once, key=hash) == sorted(queue, key=hash)
    shuffled = random.Random(1).sample(queue, len(queue))
    assert list(policy(shuffled, 5.0)) == once


@pytest.mark.parametrize("name", POLICIES.names())
@given(queue=queues)
def test_whoever_has_waited_too_long_goes_first(name: str, queue: list[Queued]) -> None:
    now = 60.0
    ordered = order(POLICIES.get(name), queue, now)
    late = [now - one.arrival > PATIENCE_S for one in ordered]
    assert late == sorted(late, reverse=True)


def test_the_longest_prefix_goes_first_and_branches_stay_together() -> None:
    def one(sequence: int, cached: int, place: int) -> Queued:
        return Queued(sequence, 0.0, 100, cached, place, 1)

    queue = [one(0, 5, 1), one(1, 50, 2), one(2, 9, 3), one(3, 10, 3)]
    longest = POLICIES.get("lpm")(queue, 0.0)
    assert [each.sequence for each in longest] == [1, 3, 2, 0]
    heaviest = POLICIES.get("dfs-weight")(queue, 0.0)
    assert [each.sequence for each in heaviest] == [3, 2, 0, 1]
