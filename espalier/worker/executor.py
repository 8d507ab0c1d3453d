"""How the engine's loop drives the worker in this process; `ranked.py` does so over several ranks.

    started = executor.forward(batch)               # returns at once where a device queues work
    flight = executor.sample(started, masks)        # likewise
    result = executor.wait_for_tokens(flight)       # the one place that waits

A step that fails raises WorkerFailed from either half; the executor is good for the next batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from espalier.protocol.step import StepBatch, StepResult
from espalier.sampling.sampler import Masks
from espalier.worker.memory import resident_bytes
from espalier.worker.runner import Flight, Started
from espalier.worker.worker import Worker

__all__ = ["Executor", "Flight", "LocalExecutor", "Started", "WorkerStatistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """Since the start, but for what is in bytes."""

    steps: int
    tokens: int  # computed, prompts included
    failed_steps: int
    forward_s: float  # in `forward`; on a device, only to queue it
    sample_s: float  # likewise
    cache_bytes: int
    resident_bytes: int  # this process's memory on the host


class Executor(Protocol):
    def forward(self, batch: StepBatch) -> Started: ...

    def sample(self, started: Started, masks: Masks | None = None) -> Flight:
        """`masks` has a row for each row that chooses a token, in the batch's order."""
        ...

    def wait_for_tokens(self, flight: Flight) -> StepResult: ...

    def agree(self, num_tokens: int) -> int:
        """The most tokens any data-parallel rank has for its next step: all take part in it."""
        ...

    def statistics(self) -> WorkerStatistics: ...

    def close(self) -> None:
        """Give everything back. A second call does nothing."""
        ...


class LocalExecutor:
    """The worker in this process, on the thread that calls."""

    def __init__(self, worker: Worker) -> None:
        self._worker: Worker | None = worker
        self._cache_bytes = worker.pools.size_bytes
        self._steps = self._tokens = self._failed = 0
        self._seconds = {"forward": 0.0, "sample": 0.0}

    def forward(self, batch: StepBatch) -> Started:
        with self._counted("forward"):
            started = self._open().runner.forward(batch)
        self._steps += 1
        self._tokens += batch.num_tokens
        return started

    def sample(self, started: Started, masks: Masks | None = None) -> Flight:
        with self._counted("sample"):
            return self._open().runner.sample(started, masks)

    def wait_for_tokens(self, flight: Flight) -> StepResult:
        return flight.wait_for_result()

    def agree(self, num_tokens: int) -> int:
        return num_tokens

    def statistics(self) -> WorkerStatistics:
        return WorkerStatistics(
            steps=self._steps,
            tokens=self._tokens,
            failed_steps=self._failed,
            forward_s=self._seconds["forward"],
            sample_s=self._seconds["sample"],
            cache_bytes=self._cache_bytes,
            resident_bytes=resident_bytes(),
        )

    def close(self) -> None:
        self._worker = None
        self._cache_bytes = 0

    def _open(self) -> Worker:
        assert self._worker is not None, "the executor is closed"
        return self._worker

    @contextmanager
    def _counted(self, half: str) -> Iterator[None]:
        begun, done = time.perf_counter(), False
        try:
            yield
            done = True
        finally:
            self._failed += not done
            self._seconds[half] += time.perf_counter() - begun
