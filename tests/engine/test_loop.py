"""The step loop: what goes in comes out, failures end requests and not the engine."""

from __future__ import annotations

import threading
import time

import pytest

from espalier.cache.prefix import PrefixCache
from espalier.engine.loop import MOST_FAILURES, Loop
from espalier.errors import EngineError, StepFailed
from espalier.protocol.arrays import ids
from espalier.protocol.messages import Abort, Finished, Generate, RequestId, StepOutput
from espalier.protocol.sampling import Sampling
from espalier.protocol.step import StepBatch, StepResult
from espalier.scheduler.plan import Limits
from espalier.scheduler.scheduler import Scheduler
from tests.fakes import VOCABULARY, FakeExecutor, oracle

GREEDY = Sampling(temperature=0.0)
PAGES, PAGE = 60, 4


class Failing(FakeExecutor):
    """Raises in `forward` for the next so many steps; a device's failure, told at once."""

    left = 0
    out_of_memory = False

    def forward(self, batch: StepBatch) -> StepBatch:
        if self.left:
            self.left -= 1
            self._take_in(batch)
            raise StepFailed("told to fail", out_of_memory=self.out_of_memory)
        return batch

    def wait_for_tokens(self, flight: StepBatch) -> StepResult:
        return super().wait_for_tokens(flight)


class Engine:
    def __init__(self, look_ahead: int = 0) -> None:
        limits = Limits(
            max_step_tokens=32,
            chunk_tokens=16,
            max_running=4,
            page_size=PAGE,
            context_length=200,
            vocabulary=VOCABULARY,
            capacity=(PAGES - 1) * PAGE,
            max_queued=50,
            max_queued_tokens=10_000,
            look_ahead=look_ahead,
        )
        self.tokens: dict[int, list[int]] = {}
        self.finished: dict[int, Finished] = {}
        self.changed = threading.Condition()
        self.executor = Failing(PAGES, PAGE, 4)
        scheduler = Scheduler(limits, PrefixCache(PAGES, PAGE), time.monotonic)
        self.loop = Loop(scheduler, self.executor, self.take, look_ahead=look_ahead)  # type: ignore[arg-type]

    def take(self, output: StepOutput) -> None:
        with self.changed:
            taken = 0
            for number, count in zip(output.requests.tolist(), output.counts.tolist(), strict=True):
                new = output.tokens[taken : taken + count].tolist()
                self.tokens.setdefault(number, []).extend(new)
                taken += count
            self.finished |= {one.request: one for one in output.finished}
            self.changed.notify_all()

    def ask(self, number: int, prompt: list[int], most: int = 6) -> None:
        message = Generate(
            request=RequestId(number), prompt=ids(prompt), max_tokens=most, sampling=GREEDY
        )
        self.loop.submit(message)

    def turn_until_quiet(self) -> None:
        for _ in range(300):
            self.loop._receive()
            self.loop.turn()
            if not self.loop._scheduler.has_work and not self.loop._flying:
                return
        raise AssertionError("requests are left")


@pytest.mark.parametrize("look_ahead", [0, 1])
def test_what_goes_in_comes_out(look_ahead: int) -> None:
    engine = Engine(look_ahead)
    for number in range(1, 8):
        engine.ask(number, [number, 2, 3])
    engine.turn_until_quiet()
    for number in range(1, 8):
        assert engine.tokens[number] == oracle([number, 2, 3], 6, GREEDY)
        assert engine.finished[number].reason == "length"


def test_it_runs_on_a_thread_and_stops_when_asked() -> None:
    engine = Engine()
    thread = threading.Thread(target=engine.loop.run)
    thread.start()
    engine.ask(1, [4, 5])
    with engine.changed:
        assert engine.changed.wait_for(lambda: 1 in engine.finished, timeout=20)
    engine.loop.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert engine.tokens[1] == oracle([4, 5], 6, GREEDY)


@pytest.mark.parametrize("look_ahead", [0, 1])
def test_a_failed_step_ends_its_requests_and_the_engine_goes_on(look_ahead: int) -> None:
    engine = Engine(look_ahead)
    engine.executor.left = 1
    engine.ask(1, [1, 2])
    engine.turn_until_quiet()
    failure = engine.finished[1].failure
    assert failure is not None
    assert (failure.kind, failure.status) == ("StepFailed", 500)
    engine.ask(2, [1, 2])
    engine.turn_until_quiet()
    assert engine.tokens[2] == oracle([1, 2], 6, GREEDY)


def test_a_step_without_memory_is_tried_again_once() -> None:
    engine = Engine()
    engine.executor.left, engine.executor.out_of_memory = 1, True
    engine.ask(1, [1, 2])
    engine.turn_until_quiet()
    assert engine.tokens[1] == oracle([1, 2], 6, GREEDY)
    engine.executor.left = 2
    engine.ask(2, [3, 2])
    engine.turn_until_quiet()
    assert engine.finished[2].reason == "error"


def test_steps_that_keep_failing_end_the_engine() -> None:
    engine = Engine()
    engine.executor.left = MOST_FAILURES
    for number in range(1, 20):
        engine.ask(number, [number])
    engine.executor.left = 10
    with pytest.raises(EngineError, match=f"{MOST_FAILURES} steps in a row"):
        engine.turn_until_quiet()


def test_an_abort_overtakes_nothing_and_unknown_ones_do_nothing() -> None:
    engine = Engine()
    engine.ask(1, [1, 2], most=50)
    engine.loop.submit(Abort(request=RequestId(99)))
    engine.loop.submit(Abort(request=RequestId(1)))
    engine.turn_until_quiet()
    assert engine.finished[1].reason == "abort"
    assert 99 not in engine.finished


def test_after_a_step_without_memory_steps_are_half_as_large() -> None:
    engine = Engine()
    engine.executor.left, engine.executor.out_of_memory = 1, True
    engine.ask(1, list(range(1, 40)))
    sizes: list[int] = []
    forward = engine.executor.forward

    def note(batch: StepBatch) -> StepBatch:
        sizes.append(batch.num_tokens)
        return forward(batch)

    engine.executor.forward = note  # type: ignore[method-assign]
    engine.turn_until_quiet()
    assert sizes[0] == 16
    assert sizes[1] == 8
    assert sizes[1] < sizes[2] <= 16
    assert engine.tokens[1] == oracle(list(range(1, 40)), 6, GREEDY)
