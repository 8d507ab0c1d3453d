"""How the engine's loop drives the worker: here, or over several ranks.

    started = executor.forward(batch)               # returns at once where a device queues work
    flight = executor.sample(started, masks)        # likewise
    result = executor.wait_for_tokens(flight)       # the one place that waits

A step that fails raises WorkerFailed from either half; the executor is good for the next batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from espalier.protocol.step import StepBatch, StepResult
from espalier.sampling.sampler import Masks
from espalier.worker.memory import resident_bytes
from espalier.worker.runner import Flight, Started
from espalier.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Since the start, but for what is in bytes."""

    steps: int
    tokens: int  # computed, prompts included
    failed_steps: int
    forward_s: float  # in `forward`; on a device, only to queue it
    sample_s: float
    cache_bytes: int
    resident_bytes: int  # this process's memory on the host


class Executor(Protocol):
    def forward(self, batch: StepBatch) -> Started: ...
    def sample(self, started: Started, masks: Masks | None = None) -> Flight: ...
    def wait_for_tokens(self, flight: Flight) -> StepResult: ...
    def agree(self, num_tokens: int) -> int:
        """The most tokens any data-parallel rank has for its next step: all take part in it."""
        ...

    def statistics(self) -> WorkerStatistics: ...
    def close(self) -> None:
        """Give everything back. A second call does nothing."""
        ...


class LocalExecutor:
    """The worker in this process, on this thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker: Worker | None = worker
        self._steps = self._tokens = self._failed = 0
        self._forward_s = self._sample_s = 0.0

    def forward(self, batch: StepBatch) -> Started:
        begun = time.perf_counter()
        self._steps += 1
        self._tokens += batch.num_tokens
        started = self._counted(lambda: self._runner.forward(batch))
        self._forward_s += time.perf_counter() - begun
        return started
