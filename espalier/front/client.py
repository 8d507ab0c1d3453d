"""The engine as the front end sees it: requests out, entries back that fill as the engine works.

Prompts by the thousand are fed as the engine's queue drains, so a batch is never refused for its
size; what the engine's queue has no room for after all waits here and is sent again.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from espalier.errors import EngineError, QueueFull
from espalier.front.intake import Prepared
from espalier.front.table import Entry, Table, Watch
from espalier.protocol.arrays import NO_IDS
from espalier.protocol.messages import (
    Abort,
    Failure,
    Finished,
    Flush,
    Generate,
    RequestId,
    StepOutput,
    ToEngine,
)
from espalier.tokenizer.base import Tokenizer


class Engine(Protocol):
    """Where messages go, from any thread; its answers come to `Client.take`, on one of its own."""

    def submit(self, message: ToEngine) -> None: ...


@dataclass(frozen=True, slots=True)
class Room:
    """How much is kept waiting in the engine; the rest waits here."""

    requests: int
    tokens: int  # of prompts


class Client:
    """Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        room: Room,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = Table(tokenizer, clock)
        self._room = room
        self._engine: Engine | None = None
        self._ids = itertools.count(1)
        self._lock = threading.Lock()  # keeps all below; taken before the table's, never after
        self._unsent: list[tuple[int, RequestId, Generate]] = []  # a heap: higher priority first
        self._queued: dict[RequestId, Generate] = {}  # sent, and not known to run yet
        self._queued_tokens = 0
        self._dead: Failure | None = None

    def connect(self, engine: Engine) -> None:
        self._engine = engine

    def send(self, prepared: Sequence[Prepared], watch: Watch) -> list[Entry]:
        """Entries for every sample of every prompt, in order. Raises EngineError if it is gone."""
        if self._dead is not None:
            raise EngineError(self._dead.message, hint=self._dead.hint)
        entries: list[Entry] = []
        messages: list[Generate] = []
        for one in prepared:
            for sample in range(one.params.n):
                request = RequestId(next(self._ids))
                entries.append(self.table.add(request, one, sample, watch))
                messages.append(one.message(request, sample))
        with self._lock:
            for message in messages:
                self._keep(message)
            self._feed()
        self._bury()  # it may have died since the first line
        return entries

    def abort(self, entries: Sequence[Entry]) -> None:
        """End these, wherever they are; whoever has ended already is left as it is."""
        gone = {entry.id for entry in entries if not entry.is_over}
        if not gone:
            return
        with self._lock:
            unsent = [request for _, request, _ in self._unsent if request in gone]
            if unsent:
                self._unsent = [one for one in self._unsent if one[1] not in gone]
                heapq.heapify(self._unsent)
            for request in gone.difference(unsent):
                self._leave_queue(request)
                self._submit(Abort(request=request))
        self.table.take(_aborted(unsent))

    def flush(self) -> None:
        """Forget every cached prefix that no running request uses."""
        self._submit(Flush())

    def take(self, output: StepOutput) -> None:
        """The engine's news; called on its thread."""
        moved = bool(output.admitted or output.finished)
        if moved:
            with self._lock:
                output = self._settled(output)
        for request in self.table.take(output):
            self._submit(Abort(request=request))
        if moved:
            with self._lock:
                self._feed()

    def died(self, failure: Failure) -> None:
        """The engine is gone; nobody is left waiting."""
        with self._lock:
            self._dead = failure
            self._unsent.clear()
            self._queued.clear()
        self._bury()

    def _bury(self) -> None:
        if self._dead is not None:
            self.table.close(self._dead)

    def _keep(self, message: Generate) -> None:
        heapq.heappush(self._unsent, (-message.priority, message.request, message))

    def _feed(self) -> None:
        """Send what there is room for. Under the lock: an abort must not overtake its request."""
        while self._dead is None and self._unsent and self._fits(self._unsent[0][2]):
            _, request, message = heapq.heappop(self._unsent)
            self._queued[request] = message
            self._queued_tokens += len(message.prompt)
            self._submit(message)

    def _fits(self, message: Generate) -> bool:
        if not self._queued:
            return True
        tokens = self._queued_tokens + len(message.prompt)
        return len(self._queued) < self._room.requests and tokens <= self._room.tokens

    def _leave_queue(self, request: RequestId) -> Generate | None:
        message = self._queued.pop(request, None)
        if message is not None:
            self._queued_tokens -= len(message.prompt)
        return message

    def _settled(self, output: StepOutput) -> StepOutput:
        """Note who left the engine's queue; who found it full is kept here, and has not ended."""
        for admitted in output.admitted:
            self._leave_queue(admitted.request)
        finished: list[Finished] = []
        for one in output.finished:
            message = self._leave_queue(one.request)
            if one.failure is None or one.failure.kind != QueueFull.__name__:
                finished.append(one)
            elif message is not None:
                self._keep(message)
            else:  # its abort was under way, and did not find it
                finished.append(Finished(request=one.request, reason="abort"))
        return replace(output, finished=tuple(finished))

    def _submit(self, message: ToEngine) -> None:
        assert self._engine is not None, "connected as it is built"
        self._engine.submit(message)


def _aborted(requests: Sequence[RequestId]) -> StepOutput:
    """The terminal events of requests that the engine never heard of."""
    return StepOutput(
        requests=np.empty(0, np.int64),
        counts=NO_IDS,
        tokens=NO_IDS,
        finished=tuple(Finished(request=request, reason="abort") for request in requests),
    )
