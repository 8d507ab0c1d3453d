"""The executor over several ranks: rank 0, in this process, tells the others what it does itself.

Every rank runs the same worker on the same batches. What a rank draws depends on logits that are
the same on each, so tokens need not travel: each rank keeps its own table of them, and they agree.

A step that fails on one rank leaves the others in the middle of their sums, so here it ends the
group: the error is not WorkerFailed, and the engine starts again.

Run as a module, this is what the other ranks do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np

from espalier.distributed.gloo import GlooGroup, RankLost, broadcast_bytes
from espalier.distributed.launch import Ranks, join, launch
from espalier.logs import set_up
from espalier.protocol.step import StepBatch, StepResult, decode_batch, encode
from espalier.sampling.sampler import Masks
from espalier.worker.executor import LocalExecutor, WorkerStatistics
from espalier.worker.failures import WorkerFailed
from espalier.worker.runner import Flight, Started
from espalier.worker.worker import Worker, WorkerSpec

FORWARD, SAMPLE, SAMPLE_MASKED = b"f", b"s", b"m"
MODULE = "espalier.worker.ranked"


class RankedExecutor:
    """Made by `start`; `ranks.processes` may be watched, `ranks.check` tells how one ended."""

    def __init__(self, worker: Worker, ranks: Ranks) -> None:
        self.ranks = ranks
        self._local = LocalExecutor(worker)
        self._is_open = True

    @staticmethod
    def start(spec: WorkerSpec, size: int) -> RankedExecutor:
        """Start the ranks; all build their part of the model at the same time."""
        ranks = launch(MODULE, msgspec.msgpack.encode(spec), size)
        try:
            worker = Worker.build(spec, ranks.group)
        except BaseException:
            ranks.stop()
            raise
        return RankedExecutor(worker, ranks)

    def forward(self, batch: StepBatch) -> Started:
        with self._together():
            broadcast_bytes(self.ranks.group, FORWARD + encode(batch))
            return self._local.forward(batch)

    def sample(self, started: Started, masks: Masks | None = None) -> Flight:
        with self._together():
            broadcast_bytes(self.ranks.group, _sample_order(masks))
            return self._local.sample(started, masks)

    def wait_for_tokens(self, flight: Flight) -> StepResult:
        return self._local.wait_for_tokens(flight)

    def agree(self, num_tokens: int) -> int:
        return num_tokens

    def statistics(self) -> WorkerStatistics:
        return self._local.statistics()

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._local.close()
        self.ranks.stop()

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except WorkerFailed as error:
            self.close()
            raise RankLost(
                f"{error.message} on rank 0, and the others are in the middle of it",
                hint="the engine must be started again",
            ) from error


def _sample_order(masks: Masks | None) -> bytes:
    if masks is None:
        return SAMPLE
    rows = len(masks).to_bytes(4, "little")
    return SAMPLE_MASKED + rows + np.ascontiguousarray(masks, np.int32).tobytes()


def _masks(data: bytes) -> Masks:
    rows = int.from_bytes(data[:4], "little")
    return np.frombuffer(data, np.int32, offset=4).reshape(rows, -1)


def follow(worker: Worker, group: GlooGroup) -> None:
    """Do what rank 0 does, until this rank is ended. An error here ends it, and so the group."""
    started: Started | None = None
    while True:
        order = broadcast_bytes(group, None)
        kind, data = order[:1], order[1:]
        if kind == FORWARD:
            started = worker.runner.forward(decode_batch(data))
            continue
        assert started is not None, "rank 0 samples what it started"
        worker.runner.sample(started, _masks(data) if kind == SAMPLE_MASKED else None)


def main() -> None:
    set_up()
    group, settings = join(sys.argv)
    follow(Worker.build(msgspec.msgpack.decode(settings, type=WorkerSpec), group), group)


if __name__ == "__main__":
    main()
