"""A fake of the engine's side of the border: messages in, `StepOutput`s out, on its own thread.

The next token is a hash of all tokens so far (`tests.fakes`), or what `Script` says, so the right
output of a request is known. `Desk` is the front half over it, as `offline.Engine` is over the real
one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from espalier.errors import QueueFull
from espalier.front.asking import ask
from espalier.front.caller import Caller
from espalier.front.client import Client, Room
from espalier.front.intake import Intake, ModelLimits
from espalier.protocol.arrays import ids
from espalier.protocol.messages import (
    Abort,
    Admitted,
    Failure,
    Finished,
    Generate,
    Logprobs,
    StepOutput,
    ToEngine,
)
from espalier.scheduler.guard import failure_of
from espalier.tokenizer.base import Tokenizer
from tests.fakes import VOCABULARY, next_token, score

Script = Callable[[Generate, list[int]], int]  # the next token after the output so far


def hashed(message: Generate, output: list[int]) -> int:
    tokens = [*message.prompt.tolist(), *output]
    return next_token(tokens, len(message.prompt), message.sampling)


def said(tokens: Sequence[int]) -> Script:
    """Every request is answered with these tokens, again and again."""
    return lambda _, output: tokens[len(output) % len(tokens)]


@dataclass(eq=False)
class _Running:
    message: Generate
    output: list[int] = field(default_factory=list)


class FakeEngine:
    """`burst` tokens of each request a step; so many run at once, and so many may wait."""

    def __init__(
        self, script: Script = hashed, *, burst: int = 1, running: int = 4, queued: int = 8
    ) -> None:
        self.script = script
        self.burst, self.most_running, self.most_queued = burst, running, queued
        self.seen: list[ToEngine] = []
        self.refusals = 0
        self.broken: set[int] = set()  # prompts whose first token is this end in an error
        self._inbox: SimpleQueue[ToEngine | None] = SimpleQueue()
        self._waiting: list[Generate] = []
        self._running: list[_Running] = []
        self._finished: list[Finished] = []
        self.take: Callable[[StepOutput], None] = lambda _: None

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._running or self._finished)

    def submit(self, message: ToEngine) -> None:
        self._inbox.put(message)

    def stop(self) -> None:
        self._inbox.put(None)

    def run(self) -> None:
        while self.receive(wait=self.is_idle):
            self.step()

    def receive(self, *, wait: bool = False) -> bool:
        """Take in what has come; False when told to stop."""
        try:
            message = self._inbox.get() if wait else self._inbox.get_nowait()
            while message is not None:
                self._receive(message)
                message = self._inbox.get_nowait()
        except Empty:
            return True
        return False

    def step(self) -> None:
        admitted = []
        while self._waiting and len(self._running) < self.most_running:
            message = self._waiting.pop(0)
            self._running.append(_Running(message))
            admitted.append(Admitted(message.request, len(message.prompt) // 2))
        made = {one: self._advance(one) for one in list(self._running)}
        output = StepOutput(
            requests=np.array([one.message.request for one in made], np.int64),
            counts=ids([len(tokens) for tokens in made.values()]),
            tokens=ids(list(itertools.chain.from_iterable(made.values()))),
            admitted=tuple(admitted),
            finished=tuple(self._finished),
            logprobs=_logprobs(made),
        )
        self._finished = []
        self.take(output)

    def _receive(self, message: ToEngine) -> None:
        self.seen.append(message)
        match message:
            case Generate():
                if len(self._waiting) >= self.most_queued:
                    self.refusals += 1
                    full = QueueFull(waiting=len(self._waiting), limit=self.most_queued)
                    self._end(message, "error", failure=failure_of(full))
                elif int(message.prompt[0]) in self.broken:
                    failure = Failure(kind="NumericalError", message="not a number", status=500)
                    self._end(message, "error", failure=failure)
                else:
                    self._waiting.append(message)
            case Abort(request=request):
                here = [*self._waiting, *(one.message for one in self._running)]
                for one in here:
                    if one.request == request:
                        self._end(one, "abort")

    def _advance(self, one: _Running) -> list[int]:
        new: list[int] = []
        sampling = one.message.sampling
        while len(new) < self.burst:
            token = self.script(one.message, one.output)
            one.output.append(token)
            new.append(token)
            if token in sampling.stop and len(one.output) > sampling.min_tokens:
                self._end(one.message, "stop", matched=token)
                break
            if len(one.output) == one.message.max_tokens:
                self._end(one.message, "length")
                break
        return new

    def _end(self, message: Generate, reason: Any, **more: Any) -> None:
        self._waiting = [one for one in self._waiting if one is not message]
        self._running = [one for one in self._running if one.message is not message]
        self._finished.append(Finished(request=message.request, reason=reason, **more))


def _logprobs(made: dict[_Running, list[int]]) -> Logprobs | None:
    """Rows of the prompt with the first token, and of each new token; the best are 0, 1, ..."""
    rows: list[tuple[int, int, list[int], Generate]] = []
    for one, new in made.items():
        wanted = one.message.logprobs
        if wanted is None:
            continue
        prompt = one.message.prompt.tolist()
        tokens = [*prompt, *one.output]
        first = len(tokens) - len(new)
        if first == len(prompt) and wanted.prompt_from >= 0:
            first = max(wanted.prompt_from, 1)
        rows += [(at, tokens[at], tokens[:at], one.message) for at in range(first, len(tokens))]
    if not rows:
        return None
    tops = [list(range(row[3].logprobs.top)) for row in rows]
    lists = [list(row[3].logprobs.listed) for row in rows]

    def values(chosen: list[list[int]]) -> Any:
        pairs = zip(rows, chosen, strict=True)
        return np.array([score(row[2], one) for row, some in pairs for one in some], np.float32)

    return Logprobs(
        owners=np.array([row[3].request for row in rows], np.int64),
        positions=ids([row[0] for row in rows]),
        tokens=ids([row[1] for row in rows]),
        values=values([[row[1]] for row in rows]),
        top_counts=ids([len(one) for one in tops]),
        top_tokens=ids(list(itertools.chain.from_iterable(tops))),
        top_values=values(tops),
        listed_counts=ids([len(one) for one in lists]),
        listed_tokens=ids(list(itertools.chain.from_iterable(lists))),
        listed_values=values(lists),
    )


class Desk:
    """The front half over a fake engine; `generate` takes what `Engine.generate` takes."""

    def __init__(
        self,
        engine: FakeEngine,
        tokenizer: Tokenizer | None,
        *,
        context_length: int = 256,
        ends: tuple[int, ...] = (),
        room: Room | None = None,
    ) -> None:
        self.engine = engine
        self.vocabulary = tokenizer.size if tokenizer is not None else VOCABULARY
        limits = ModelLimits(vocabulary=self.vocabulary, context_length=context_length, ends=ends)
        self.intake = Intake(tokenizer, limits, itertools.count(1000).__next__)
        self.client = Client(tokenizer, room=room or Room(4, 10_000))
        self.client.connect(engine)
        engine.take = self.client.take
        self.caller = Caller(self.client, tokenizer)

    def asked(self, prompt: Any = None, params: Any = None, input_ids: Any = None, **words: Any):  # noqa: ANN201
        return ask(self.intake, prompt, input_ids, params, words)

    def generate(self, prompt: Any = None, params: Any = None, **words: Any) -> Any:
        return self.caller.wait(self.asked(prompt, params, **words))

    def stream(self, prompt: Any = None, params: Any = None, **words: Any) -> Iterator[Any]:
        return self.caller.stream(self.asked(prompt, params, **words))


@contextmanager
def running(desk: Desk) -> Iterator[Desk]:
    """The desk with its engine on a thread; at the end nothing may be left of any request."""
    thread = threading.Thread(target=desk.engine.run, daemon=True)
    thread.start()
    try:
        yield desk
    finally:
        desk.engine.stop()
        thread.join()
    assert len(desk.client.table) == 0, "I19: entries are live requests"
