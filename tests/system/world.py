"""A scheduler, a fake executor and the oracle of each request, driven step by step.

After every action the invariants are checked; every token that comes out is compared with the
request's oracle. `happened` collects what a campaign must have seen at least once.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from espalier.cache.prefix import PrefixCache
from espalier.errors import StepFailed
from espalier.protocol.arrays import ids
from espalier.protocol.messages import Abort, Finished, Flush, Generate, Logprobs, RequestId
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.protocol.step import StepBatch
from espalier.scheduler import invariants
from espalier.scheduler.plan import Limits
from espalier.scheduler.scheduler import Scheduler
from espalier.speculative.base import Proposer
from tests.fakes import VOCABULARY, Clock, FakeExecutor, oracle, score


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What kind of engine the world has."""

    num_pages: int = 40
    page_size: int = 4
    max_running: int = 6
    max_step_tokens: int = 32
    chunk_tokens: int = 16
    max_queued: int = 64
    look_ahead: int = 0
    policy: str = "fcfs"
    sharing: bool = True
    eviction: str = "lru"
    max_cached_tokens: int | None = None
    max_drafts: int = 0
    queue_timeout_s: float | None = None


@dataclass
class Expected:
    """What one request should bring, and what it has brought."""

    message: Generate
    output: list[int]
    got: list[int] = field(default_factory=list)
    scored: dict[int, float] = field(default_factory=dict)
    finished: Finished | None = None
    cached: int = 0


class World:
    def __init__(self, shape: Shape, proposer: Proposer | None = None) -> None:
        self.shape = shape
        self.clock = Clock()
        self.cache = PrefixCache(
            shape.num_pages,
            shape.page_size,
            sharing=shape.sharing,
            eviction=shape.eviction,
            max_cached_tokens=shape.max_cached_tokens,
        )
        capacity = (shape.num_pages - 1) * shape.page_size
        limits = Limits(
            max_step_tokens=max(
                shape.max_step_tokens, shape.max_running * (1 + shape.max_drafts) + 1
            ),
            chunk_tokens=shape.chunk_tokens,
            max_running=shape.max_running,
            page_size=shape.page_size,
            context_length=capacity,
            vocabulary=VOCABULARY,
            capacity=capacity,
            max_queued=shape.max_queued,
            max_queued_tokens=100_000,
            look_ahead=shape.look_ahead,
            max_drafts=shape.max_drafts,
            queue_timeout_s=shape.queue_timeout_s,
        )
        self.scheduler = Scheduler(
            limits, self.cache, self.clock, policy=shape.policy, proposer=proposer
        )
        self.executor = FakeExecutor(shape.num_pages, shape.page_size, shape.max_running)
        self.flying: deque[StepBatch] = deque()
        self.requests: dict[int, Expected] = {}
        self.happened: Counter[str] = Counter()
        self.log: list[tuple[int, ...]] = []
        self.steps = 0
        self.checks = 0

    @property
    def live(self) -> list[int]:
        return [number for number, one in self.requests.items() if one.finished is None]

    def submit(
        self,
        prompt: list[int],
        max_tokens: int,
        sampling: Sampling | None = None,
        *,
        priority: int = 0,
        namespace: str = "",
        logprobs: LogprobsWanted | None = None,
        sent: int = 0,
    ) -> int:
        number = len(self.requests) + 1
        chosen = sampling or Sampling(temperature=0.0)
        output = oracle(prompt, max_tokens, chosen)
        given = output[: min(sent, len(output) - 1)]
        message = Generate(
            request=RequestId(number),
            prompt=ids(prompt),
            max_tokens=max_tokens,
            sampling=chosen,
            priority=priority,
            namespace=namespace,
            logprobs=logprobs,
            sent=ids(given),
        )
        self.requests[number] = Expected(message, output, got=list(given))
        self.scheduler.take(message)
        self.collect()
        return number

    def abort(self, number: int) -> None:
        phase = self._phase(number)
        self.happened[f"abort while {phase}"] += 1
        self.scheduler.take(Abort(request=RequestId(number)))
        self.collect()

    def step(self) -> bool:
        """One turn of the loop; False when there was nothing to do."""
        self.clock.now += 0.01
        self.steps += 1
        state = self.scheduler.state
        before = state.totals.preemptions, state.totals.waits
        batch = self.scheduler.next_batch()
        if batch is not None:
            self.flying.append(batch)
            self.log.append((batch.number, *batch.slots.tolist(), *batch.counts.tolist()))
            self.happened["copied a partial page"] += int(len(batch.pages[0].copy_from) > 0)
            self.happened["mixed step"] += int(len(set(batch.counts.tolist())) > 1)
            self.happened["chunked prompt"] += int((batch.samples == 0).any())
            self.happened["drafts"] += int((batch.samples > 1).any())
        self.happened["preemption"] += state.totals.preemptions - before[0]
        self.happened["waited for a prefix"] += state.totals.waits - before[1]
        self.check()
        landing = len(self.flying) > self.shape.look_ahead or (batch is None and self.flying)
        if landing:
            self.land()
        else:
            self.collect()
        return batch is not None or bool(landing)

    def land(self) -> None:
        batch = self.flying.popleft()
        try:
            result = self.executor.wait_for_tokens(batch)
        except StepFailed as error:
            self.happened["failed step"] += 1
            self.flying.clear()
            self.scheduler.fail(error, retry=self.executor.faults.out_of_memory)
        else:
            self.scheduler.apply(result)
        self.collect()

    def run(self, most: int = 10_000) -> None:
        """Until everyone has ended: liveness is a property too."""
        for _ in range(most):
            if not self.scheduler.has_work and not self.flying:
                return
            self.step()
        raise AssertionError(f"I20: after {most} steps {self.live} have not ended")

    def flush(self) -> None:
        self.scheduler.take(Flush())
        self.happened["flush"] += 1
        self.check()

    def at_rest(self) -> None:
        """Nobody runs: every page is free or cached, nothing is pinned."""
        statistics = self.cache.statistics()
        assert statistics.free + statistics.cached == self.shape.num_pages - 1, "I20: pages lost"
        assert not statistics.pinned, "I20: pages pinned and nobody there"
        assert not self.scheduler.has_work
        assert all(one.finished for one in self.requests.values()), "I10: no terminal event"

    def collect(self) -> None:
        output = self.scheduler.take_output()
        self.check()
        if output is None:
            return
        taken = 0
        for number, count in zip(output.requests.tolist(), output.counts.tolist(), strict=True):
            one = self.requests[number]
            assert one.finished is None, f"I10: a token of {number} after its end"
            one.got.extend(output.tokens[taken : taken + count].tolist())
            taken += count
            assert one.got == one.output[: len(one.got)], f"I11: {number}: {one.got} {one.output}"
        for admitted in output.admitted:
            self.requests[admitted.request].cached = admitted.cached
            self.happened["cache hit"] += int(admitted.cached > 0)
        if output.logprobs is not None:
            self._collect_scores(output.logprobs)
        for finished in output.finished:
            self._finish(finished)

    def check(self) -> None:
        self.checks += 1
        invariants.check(self.scheduler.state)

    def _finish(self, finished: Finished) -> None:
        one = self.requests[finished.request]
        assert one.finished is None, f"I10: {finished.request} ended twice"
        one.finished = finished
        self.happened[f"finished: {finished.reason}"] += 1
        if finished.reason in ("stop", "length"):
            assert one.got == one.output, f"I11: {finished.request} ended early: {one.got}"
            stops = one.message.sampling.stop
            stopped = one.output[-1] in stops
            stopped &= len(one.output) > one.message.sampling.min_tokens
            assert (finished.reason == "stop") == stopped
            assert finished.matched == (one.output[-1] if stopped else -1)
            self._check_scores(one)
        self.happened["resumed after preemption"] += int(finished.num_preemptions > 0)

    def _collect_scores(self, logprobs: Logprobs) -> None:
        for owner, position, value in zip(
            logprobs.owners.tolist(),
            logprobs.positions.tolist(),
            logprobs.values.tolist(),
            strict=True,
        ):
            scored = self.requests[owner].scored
            assert position not in scored, f"position {position} of {owner} scored twice"
            scored[position] = value

    def _check_scores(self, one: Expected) -> None:
        wanted = one.message.logprobs
        if wanted is None:
            assert not one.scored
            return
        tokens = [*one.message.prompt.tolist(), *one.output]
        length = len(one.message.prompt)
        first = length if wanted.prompt_from < 0 else max(wanted.prompt_from, 1)
        due = [*range(first, length), *range(length + len(one.message.sent), len(tokens))]
        assert sorted(one.scored) == due, f"{sorted(one.scored)} are scored, {due} are due"
        for position, value in one.scored.items():
            right = score(tokens[:position], tokens[position])
            assert abs(value - right) < 1e-5, f"position {position}: {value}, not {right}"

    def _phase(self, number: int) -> str:
        state = self.scheduler.state
        request = state.requests.get(RequestId(number))
        if request is None:
            return "gone"
        if request.phase == "waiting":
            return "put back" if request.preemptions else "waiting"
        if state.slots.in_flight[request.slot] or any(
            request.id in flight.ids for flight in state.flights
        ):
            return "in flight"
        part = state.slots.computed[request.slot] < state.slots.given[request.slot]
        return "part of the prompt" if part else "decoding"
