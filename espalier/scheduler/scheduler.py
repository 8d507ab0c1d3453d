"""The scheduler: messages in, batches out, results in, messages out. It only calls its parts.

No threads, no clock of its own, no randomness, no torch: given the same messages, times and results
it does the same. One step:

    batch = scheduler.next_batch()      # plans and commits
    result = ...                        # an executor computes it
    scheduler.apply(result)             # or scheduler.fail(error)
    send(scheduler.take_output())
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import astuple

from espalier.cache.node import path
from espalier.cache.prefix import PrefixCache
from espalier.errors import EngineError
from espalier.protocol.messages import (
    Abort,
    Failure,
    Finished,
    Flush,
    Generate,
    Logprobs,
    RequestId,
    StepOutput,
    ToEngine,
)
from espalier.protocol.statistics import SchedulerStatistics
from espalier.protocol.step import StepBatch, StepResult
from espalier.scheduler import admission
from espalier.scheduler.apply import apply
from espalier.scheduler.commit import Draft, commit_running, finish
from espalier.scheduler.drafts import Drafts
from espalier.scheduler.ending import end, put_back
from espalier.scheduler.guard import failure_of, guarded
from espalier.scheduler.joining import join_waiting, make_way
from espalier.scheduler.pace import Pace
from espalier.scheduler.plan import Limits, View, plan_running
from espalier.scheduler.policy import IN_ORDER, POLICIES
from espalier.scheduler.queue import Queue
from espalier.scheduler.request import Request
from espalier.scheduler.slots import Slots
from espalier.scheduler.standing import catch_up
from espalier.scheduler.state import Clock, Outgoing, State, joined
from espalier.speculative.base import Proposer

_GROWTH = 16  # after memory ran out, each good step lets the next be a sixteenth larger


class Scheduler:
    def __init__(
        self,
        limits: Limits,
        cache: PrefixCache,
        clock: Clock,
        *,
        policy: str = "fcfs",
        target_itl_s: float | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        drafts = limits.max_drafts if proposer else 0
        assert limits.max_step_tokens >= limits.max_running * (1 + drafts) + 1, "see resolve"
        chosen = POLICIES.get(policy)
        self.state = State(
            limits=limits,
            cache=cache,
            queue=Queue(None if policy in IN_ORDER else chosen),
            slots=Slots(limits.max_running, cache.num_pages, limits.page_size),
            drafts=Drafts(proposer, limits.max_drafts),
            pace=Pace(target_itl_s),
            clock=clock,
        )
        self._draft = Draft(1)
        self._most_tokens = limits.max_step_tokens

    @property
    def has_work(self) -> bool:
        return bool(self.state.requests)

    @property
    def num_flights(self) -> int:
        return len(self.state.flights)

    def take(self, message: ToEngine) -> None:
        match message:
            case Generate():
                self._add(message)
            case Abort(request=request, why=why):
                self._abort(request, why)
            case Flush():
                self.state.cache.flush()

    def next_batch(self) -> StepBatch | None:
        """Plan a step and commit to it; None when nobody can compute anything now."""
        state = self.state
        if not state.requests:
            return None
        self._expire()
        draft = self._draft
        if make_way(state) or not self._fill(draft):
            return None
        state.number = draft.number
        self._draft = Draft(state.number + 1)
        return finish(state, draft)

    def apply(self, result: StepResult) -> None:
        flight = self.state.flights[0]
        seconds = self.state.clock() - flight.sent_at
        apply(self.state, result)
        grown = self._most_tokens + self._most_tokens // _GROWTH + 1
        self._most_tokens = min(grown, self.state.limits.max_step_tokens)
        self.state.pace.observe(int(flight.counts.sum()), seconds)

    def fail(self, error: EngineError, *, retry: bool = False) -> None:
        """Every step in flight failed. Its requests end, or (`retry`) are put back once.

        Steps after a failed one stand on what it should have computed, so they are given up too.
        `retry` is for want of memory: steps are half as large then, and grow again as they succeed.
        """
        state = self.state
        state.totals.failed_steps += 1
        if retry and state.flights:
            size = max(int(flight.counts.sum()) for flight in state.flights)
            self._most_tokens = max(size // 2, 1)
        first = state.flights[0].number if state.flights else state.number
        concerned = _concerned(state, first)
        state.flights.clear()
        for slot in concerned:
            request = state.slots.request(slot)
            _forget_flight(state, slot)
            if retry and not request.retried:
                request.retried = True
                put_back(state, slot)
            else:
                end(state, request, "error", failure=failure_of(error))
        state.cache.rollback(first)
        state.cache.settle(state.number)
        state.set_fence()

    def take_output(self) -> StepOutput | None:
        """What happened since it was last asked; None if nothing did."""
        out = self.state.out
        if not (out.requests or out.admitted or out.finished or out.logprobs):
            return None
        self.state.out = Outgoing()
        requests = np.concatenate(out.requests) if out.requests else np.empty(0, np.int64)
        return StepOutput(
            requests=requests,
            counts=joined(out.counts),
            tokens=joined(out.tokens),
            admitted=tuple(out.admitted),
            finished=tuple(out.finished),
            logprobs=_merged(out.logprobs),
        )

    def statistics(self) -> SchedulerStatistics:
        state = self.state
        totals = state.totals
        return SchedulerStatistics(
            running=len(state.slots.running),
            waiting=len(state.queue),
            steps=totals.steps,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            output_tokens=totals.output_tokens,
            preemptions=totals.preemptions,
            finished=totals.finished,
            failed_steps=totals.failed_steps,
            waits=totals.waits,
        )

    def _add(self, message: Generate) -> None:
        def take_in() -> None:
            state = self.state
            admission.check(message, state.limits, state.queue)
            tokens = np.concatenate((message.prompt, message.sent)).astype(np.int32)
            state.sequence += 1
            request = Request(message, tokens, state.clock(), state.sequence)
            state.requests[message.request] = request
            state.queue.add(request)
            if state.limits.queue_timeout_s is not None:
                state.arrivals.append(request)

        assert message.request not in self.state.requests, "the front end makes ids that are new"
        guarded(take_in, lambda failure: self._refuse(message.request, failure))

    def _refuse(self, request: RequestId, failure: Failure) -> None:
        finished = Finished(request=request, reason="error", failure=failure)
        self.state.out.finished.append(finished)

    def _abort(self, request: RequestId, why: str) -> None:
        found = self.state.requests.get(request)
        if found is None:
            return
        failure = Failure(kind="Aborted", message=why, status=499) if why else None
        end(self.state, found, "abort", failure=failure)

    def _expire(self) -> None:
        """End whoever waited longer than a request may; the longest waiting stand first."""
        state = self.state
        longest = state.limits.queue_timeout_s
        if longest is None:
            return
        now = state.clock()
        while state.arrivals:
            first = state.arrivals[0]
            never_ran = first.phase == "waiting" and not first.preemptions
            if never_ran and now - first.arrival <= longest:
                return
            state.arrivals.popleft()
            if never_ran:
                message = (
                    f"it waited {now - first.arrival:.1f} s in the queue; the limit is {longest}"
                )
                failure = Failure(
                    kind="QueueTimeout", message=message, hint="try again later", status=503
                )
                end(state, first, "error", failure=failure)

    def _fill(self, draft: Draft) -> bool:
        """Give the step its chunks; False when there are none, or when a flight must land first."""
        state = self.state
        draft.preempted = 0
        catch_up(state, draft.changes)
        state.drafts.propose(state.slots)
        budget = state.pace.budget(self._most_tokens, len(state.slots.running))
        budget = max(budget, self._least_budget())
        if not self._serve_running(budget, draft):
            return False
        self._serve_waiting(budget - draft.num_tokens, draft)
        if not draft.columns:
            self._check_nothing(draft)
        return bool(draft.columns)

    def _least_budget(self) -> int:
        slots = self.state.slots
        rows = slots.running
        return len(rows) + int(slots.drafts[rows].sum())

    def _serve_running(self, budget: int, draft: Draft) -> bool:
        """False when a step in flight must land first, to make room."""
        state = self.state
        if not len(state.slots.running):
            return True
        plan = plan_running(self._view(), budget, state.limits.chunk_tokens, state.limits.page_size)
        if plan.starved and state.flights:
            return False
        for slot in plan.preempted.tolist():
            put_back(state, slot)
        commit_running(state, plan, draft)
        draft.preempted = len(plan.preempted)
        return True

    def _serve_waiting(self, tokens: int, draft: Draft) -> None:
        if len(self.state.queue) and not draft.preempted and self.state.slots.free:
            join_waiting(self.state, tokens, draft)

    def _view(self) -> View:
        slots = self.state.slots
        rows = slots.running
        computed, drafts, held = slots.computed[rows], slots.drafts[rows], slots.held[rows]
        flying = slots.in_flight[rows]
        known = slots.known[rows]
        wants = known + drafts - computed
        wants[known >= slots.limit[rows]] = 0
        wants[slots.stepwise[rows] & (flying > 0)] = 0
        return View(
            slots=rows,
            computed=computed,
            wants=wants,
            known=known + drafts,
            drafts=drafts,
            held=held,
            own=held - slots.shared[rows],
            idle=np.full(len(rows), not self.state.flights),
            free_pages=self.state.cache.num_available,
        )

    def _check_nothing(self, draft: Draft) -> None:
        """Nothing to compute now. That must be because of what is in flight, or was put back."""
        draft.changes.repeated = True
        assert self.state.flights or draft.preempted or not self.state.requests, (
            "requests wait, nothing is in flight, and no step can be made"
        )


def _concerned(state: State, first: int) -> list[int]:
    """Slots that the steps from `first` on compute for, or that stand on what they were to fill."""
    slots = state.slots
    computed_for = {
        int(slot)
        for flight in state.flights
        for slot in flight.slots[slots.ids[flight.slots] == flight.ids]
    }
    standing = {
        slot
        for slot in slots.running.tolist()
        if (hold := slots.request(slot).hold) is not None
        and any(node.pending >= first for node in path(hold.node))
    }
    return sorted(computed_for | standing)


def _forget_flight(state: State, slot: int) -> None:
    """As if the steps in flight had not been made: only what is settled counts."""
    slots = state.slots
    slots.in_flight[slot] = 0
    slots.known[slot] = slots.settled[slot]
    slots.computed[slot] = slots.done[slot]


def _merged(parts: list[Logprobs]) -> Logprobs | None:
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    columns = [astuple(part) for part in parts]
    return Logprobs(
        **{
            name: np.concatenate([column[place] for column in columns])
            for place, name in enumerate(Logprobs.__struct_fields__)
        }
    )
