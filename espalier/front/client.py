"""The engine as the front end sees it: requests out, entries back that fill as the engine works.

Prompts by the thousand are fed as the engine's queue drains, so a batch is never refused for its
size. Consumers wait on their own conditions; whoever takes the engine's output in wakes them.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from espalier.errors import EngineError
from espalier.front.intake import Prepared
from espalier.front.table import Entry, Table, Wake
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
    """Where messages go; its answers come to `Client.take`, on whatever thread it has."""

    def submit(self, message: ToEngine) -> None: ...


class Client:
    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        most_outstanding: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = Table(tokenizer, clock)
        self._most_outstanding = most_outstanding
        self._engine: Engine | None = None
        self._ids = itertools.count(1)
        self._waiting: deque[Generate] = deque()
        self._outstanding = 0
        self._lock = threading.Lock()
        self._dead: Failure | None = None

    def connect(self, engine: Engine) -> None:
        self._engine = engine

    def send(self, prepared: Sequence[Prepared], wake: Wake) -> list[Entry]:
        """Entries for every sample of every prompt, in order; `wake` is called when any changes."""
        if self._dead is not None:
            raise EngineError(self._dead.message, hint=self._dead.hint)
        entries: list[Entry] = []
        messages: list[Generate] = []
        for one in prepared:
            for sample in range(one.params.n):
                request = RequestId(next(self._ids))
                entries.append(self.table.add(request, one, sample, wake))
                messages.append(one.message(request, sample))
        with self._lock:
            self._waiting.extend(messages)
        self._feed()
        return entries

    def abort(self, entries: Sequence[Entry]) -> None:
        """End these, wherever they are; whoever has ended already is left as it is."""
        gone = {entry.id for entry in entries if not entry.is_over}
        with self._lock:
            unsent = [message.request for message in self._waiting if message.request in gone]
            self._waiting = deque(one for one in self._waiting if one.request not in gone)
        for request in gone.difference(unsent):
            self._submit(Abort(request=request))
        if unsent:
            self.table.take(aborted(unsent))

    def flush(self) -> None:
        self._submit(Flush())

    def take(self, output: StepOutput) -> None:
        """The engine's news; called on its thread."""
        aborts, ended = self.table.take(output)
        for request in aborts:
            self._submit(Abort(request=request))
        if ended:
            with self._lock:
                self._outstanding -= ended
            self._feed()

    def died(self, failure: Failure) -> None:
        """The engine is gone; nobody is left waiting."""
        self._dead = failure
        with self._lock:
            self._waiting.clear()
        self.table.close(failure)

    def _feed(self) -> None:
        # Sent under the lock: an abort must not overtake the request it is about.
        with self._lock:
            while self._waiting and self._outstanding < self._most_outstanding:
                self._outstanding += 1
                self._submit(self._waiting.popleft())

    def _submit(self, message: ToEngine) -> None:
        assert self._engine is not None, "connected as it is built"
        self._engine.submit(message)


def aborted(requests: Sequence[RequestId]) -> StepOutput:
    """The terminal events of requests that the engine never heard of."""
    return StepOutput(
        requests=np.empty(0, np.int64),
        counts=NO_IDS,
        tokens=NO_IDS,
        finished=tuple(Finished(request=request, reason="abort") for request in requests),
    )
