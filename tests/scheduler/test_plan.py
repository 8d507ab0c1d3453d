"""What a plan promises, whatever the state."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from espalier.protocol.arrays import ids
from espalier.scheduler.plan import (
    Candidate,
    Room,
    RunningPlan,
    View,
    plan_running,
    tokens_to_admit,
)

PAGE = 4


@st.composite
def views(draw: st.DrawFn) -> View:
    count = draw(st.integers(1, 10))
    computed = ids(draw(st.lists(st.integers(0, 40), min_size=count, max_size=count)))
    wants = ids(draw(st.lists(st.integers(0, 30), min_size=count, max_size=count)))
    drafts = ids([0] * count)
    held = -(-computed // PAGE)
    own = ids([draw(st.integers(0, int(pages))) for pages in held])
    return View(
        slots=ids(range(count)),
        computed=computed,
        wants=wants,
        known=computed + wants,
        drafts=drafts,
        held=held.astype(np.int32),
        own=own,
        idle=np.full(count, draw(st.booleans())),
        free_pages=draw(st.integers(0, 20)),
    )


def planned(view: View, budget: int, chunk: int) -> RunningPlan:
    return plan_running(view, budget, chunk, PAGE)


@given(views(), st.integers(10, 60), st.integers(1, 40))
def test_a_plan_stays_within_tokens_and_pages(view: View, budget: int, chunk: int) -> None:
    plan = planned(view, budget, chunk)
    assert int(plan.counts.sum()) <= budget
    freed = int(view.own[plan.preempted].sum())
    assert int(plan.pages.sum()) <= view.free_pages + freed
    assert (plan.counts > 0).all()
    assert (plan.counts <= np.maximum(chunk, 1)).all()


@given(views(), st.integers(10, 60))
def test_nobody_is_planned_twice_nor_both_run_and_put_back(view: View, budget: int) -> None:
    plan = planned(view, budget, 64)
    ran = plan.slots.tolist()
    assert len(ran) == len(set(ran))
    assert not set(ran) & set(plan.preempted.tolist())


@given(views(), st.integers(10, 60))
def test_planning_is_repeatable_and_changes_nothing(view: View, budget: int) -> None:
    before = [column.copy() for column in (view.computed, view.wants, view.held, view.own)]
    first, second = planned(view, budget, 8), planned(view, budget, 8)
    assert first.slots.tolist() == second.slots.tolist()
    assert first.counts.tolist() == second.counts.tolist()
    after = (view.computed, view.wants, view.held, view.own)
    assert all((old == new).all() for old, new in zip(before, after, strict=True))


@given(views(), st.integers(10, 60))
def test_nobody_is_put_back_while_something_flies(view: View, budget: int) -> None:
    plan = planned(view, budget, 64)
    if not view.idle.any():
        assert not len(plan.preempted)
        lacking = set(view.slots[view.wants > 0].tolist()) - set(plan.slots.tolist())
        full = int(plan.counts.sum()) == budget
        assert plan.starved or full or not lacking


@given(views(), st.integers(10, 60))
def test_with_room_enough_one_token_rows_are_never_starved_by_prompts(
    view: View, budget: int
) -> None:
    roomy = View(
        view.slots,
        view.computed,
        view.wants,
        view.known,
        view.drafts,
        view.held,
        view.own,
        view.idle,
        1_000,
    )
    plan = planned(roomy, budget, 64)
    decoding = set(view.slots[view.wants == 1].tolist())
    assert decoding <= set(plan.slots.tolist())
    assert not len(plan.preempted)


def test_when_pages_run_out_the_last_in_service_is_put_back() -> None:
    view = View(
        slots=ids([5, 7]),
        computed=ids([8, 4]),
        wants=ids([1, 1]),
        known=ids([9, 5]),
        drafts=ids([0, 0]),
        held=ids([2, 2]),
        own=ids([2, 2]),
        idle=np.full(2, True),
        free_pages=0,
    )
    plan = planned(view, 10, 10)
    assert plan.slots.tolist() == [5]
    assert plan.preempted.tolist() == [7]


def test_a_newcomer_needs_room_for_all_of_its_prompt_and_a_page_for_each_who_runs() -> None:
    candidate = Candidate(known=40, start=8, shared=2, taken=1)
    assert tokens_to_admit(Room(64, 9 + 1 + 3, 3), candidate, 16, PAGE) == 16
    assert tokens_to_admit(Room(64, 9 + 3, 3), candidate, 16, PAGE) == 0
    assert tokens_to_admit(Room(5, 100, 3), candidate, 16, PAGE) == 5
    assert tokens_to_admit(Room(0, 100, 3), candidate, 16, PAGE) == 0
