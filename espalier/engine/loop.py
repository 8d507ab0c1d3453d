"""The step loop: receive, plan, forward, sample, apply, send. One busy thread.

With one step of look-ahead the device computes step n + 1 while the host takes in step n; the
scheduler counts tokens in flight as known, so it can plan without their values. Without it (a CPU,
where forward blocks) a step is taken in before the next is planned.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from espalier.errors import EngineError, StepFailed
from espalier.protocol.messages import StepOutput, ToEngine
from espalier.protocol.step import StepBatch
from espalier.scheduler.scheduler import Scheduler
from espalier.worker.executor import Executor, Flight, Started

log = logging.getLogger(__name__)

IDLE_S = 0.05  # how long a loop with nothing to do sleeps at most before it looks round
MOST_FAILURES = 3  # so many failed steps in a row are the engine's end, not a request's


class Loop:
    """`submit` may be called from any thread; everything else happens on the one that runs."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        on_output: Callable[[StepOutput], None],
        *,
        look_ahead: int = 0,
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._on_output = on_output
        self._look_ahead = look_ahead
        self._inbox: SimpleQueue[ToEngine | None] = SimpleQueue()
        self._flying: deque[Flight] = deque()
        self._stopping = False
        self._failures = 0

    def submit(self, message: ToEngine) -> None:
        self._inbox.put(message)

    def stop(self) -> None:
        """Ask the loop to end after the step it is in; what still runs is left as it is."""
        self._stopping = True
        self._inbox.put(None)

    def run(self) -> None:
        """Until `stop`. Raises EngineError when steps keep failing: the engine is to be restarted."""
        while not self._stopping:
            self._receive()
            self.turn()

    def turn(self) -> None:
        """One step: at most one is planned and started, and one taken in."""
        batch = self._scheduler.next_batch()
        started = self._start(batch) if batch is not None else None
        if self._flying:
            self._land()
        if started is not None:
            self._sample(started)
        if self._flying and not self._look_ahead:
            self._land()
        output = self._scheduler.take_output()
        if output is not None:
            self._on_output(output)

    def _receive(self) -> None:
        """Everything that has come; waits for something only when there is nothing to do."""
        idle = not self._scheduler.has_work and not self._flying
        try:
            message = self._inbox.get(timeout=IDLE_S) if idle else self._inbox.get_nowait()
            while True:
                if message is not None:
                    self._scheduler.take(message)
                message = self._inbox.get_nowait()
        except Empty:
            return

    def _start(self, batch: StepBatch) -> Started | None:
        try:
            return self._executor.forward(batch)
        except StepFailed as error:
            self._fail(error)
        return None

    def _sample(self, started: Started) -> None:
        if not self._scheduler.num_flights:
            return  # given up with the step before it
        try:
            self._flying.append(self._executor.sample(started, None))
        except StepFailed as error:
            self._fail(error)

    def _land(self) -> None:
        try:
            result = self._executor.wait_for_tokens(self._flying.popleft())
        except StepFailed as error:
            self._fail(error)
            return
        self._failures = 0
        self._scheduler.apply(result)

    def _fail(self, error: StepFailed) -> None:
        """The step's requests end or are put back; three in a row are more than bad luck."""
        log.error("a step failed: %s", error)
        self._failures += 1
        self._flying.clear()
        self._scheduler.fail(error, retry=error.out_of_memory)
        if self._failures >= MOST_FAILURES:
            message = f"{self._failures} steps in a row failed; the last: {error.message}"
            raise EngineError(message, hint="look at the log for the first failure") from error
