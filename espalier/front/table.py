"""The request table: one entry a request, from the moment it is sent to its one terminal event.

An entry turns tokens into text as they come, looks for stop strings, and gathers what the reply
will say. The engine does not know of text: a stop string ends the entry here, cut exactly, and the
engine is told to abort; what it still sends is not looked at. An entry is in the table exactly as
long as its request lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from espalier.front.intake import Prepared
from espalier.front.scores import Scored, scored
from espalier.protocol.messages import (
    Failure,
    Finished,
    FinishReason,
    RequestId,
    StepOutput,
)
from espalier.scheduler.guard import guarded
from espalier.tokenizer.base import Tokenizer
from espalier.tokenizer.stream import TextStream


@dataclass(slots=True, eq=False)
class Entry:
    """One request: what was asked, and what has come. While it runs, read it under the lock."""

    id: RequestId
    prepared: Prepared
    sample: int
    watch: Watch
    sent_at: float
    stream: TextStream | None  # None: tokens only
    pieces: list[str] = field(default_factory=list)  # of the text
    tokens: list[int] = field(default_factory=list)
    scores: dict[int, Scored] = field(default_factory=dict)  # by position
    cached: int = 0
    first_at: float | None = None
    ended_at: float | None = None
    reason: FinishReason | None = None  # None while it runs
    matched: int | str | None = None  # the stop token or string that ended it
    failure: Failure | None = None
    end: Finished | None = None  # the engine's own word, if it had the last

    @property
    def is_over(self) -> bool:
        return self.reason is not None

    @property
    def name(self) -> str:
        """What the client calls it, or else we."""
        return self.prepared.wishes.rid or f"request-{self.id}"

    @property
    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of an entry: `tell` must return at once, and never fail."""

    tell: Callable[[Entry], None]
    every_step: bool = False  # or only of its end


class Table:
    def __init__(self, tokenizer: Tokenizer | None, clock: Callable[[], float]) -> None:
        self._tokenizer = tokenizer
        self._clock = clock
        self._entries: dict[RequestId, Entry] = {}
        self.lock = threading.Lock()  # keeps the entries, and everything in them

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, request: RequestId, prepared: Prepared, sample: int, watch: Watch) -> Entry:
        stream = None
        if self._tokenizer is not None:
            stream = TextStream(
                self._tokenizer,
                prepared.prompt,
                stops=prepared.stops or (),
                include_stop=prepared.params.no_stop_trim,
                skip_special=prepared.params.skip_special_tokens,
                min_tokens=prepared.params.min_new_tokens,
            )
        entry = Entry(request, prepared, sample, watch, self._clock(), stream)
        with self.lock:
            self._entries[request] = entry
        return entry

    def named(self, name: str) -> list[Entry]:
        """The entries that are called exactly so."""
        with self.lock:
            return [entry for entry in self._entries.values() if entry.name == name]

    def take(self, output: StepOutput) -> list[RequestId]:
        """Take a step's news in. Returns what the engine is to abort."""
        touched: dict[RequestId, Entry] = {}
        aborts: list[RequestId] = []
        finished = {one.request: one for one in output.finished}
        with self.lock:
            self._take_columns(output)
            for request, new in _cut(output):
                entry = self._entries.get(request)
                if entry is None:
                    continue
                touched[request] = entry
                self._guarded_feed(entry, new, finished.get(request))
                if entry.is_over:
                    del self._entries[request]
                    if request not in finished:
                        aborts.append(request)
            for one in output.finished:
                if entry := self._entries.pop(one.request, None):
                    touched[one.request] = entry
                    self._finish(entry, one)
        _tell(touched.values())
        return aborts

    def close(self, failure: Failure) -> None:
        """The engine is gone: whoever is still there gets an end."""
        with self.lock:
            left = list(self._entries.values())
            self._entries.clear()
            for entry in left:
                self._end(entry, "error", failure=failure)
        _tell(left)

    def _take_columns(self, output: StepOutput) -> None:
        for admitted in output.admitted:
            if entry := self._entries.get(admitted.request):
                entry.cached = admitted.cached
        if output.logprobs is not None:
            for owner, position, row in scored(output.logprobs):
                if entry := self._entries.get(RequestId(owner)):
                    entry.scores[position] = row

    def _guarded_feed(self, entry: Entry, new: list[int], end: Finished | None) -> None:
        """What goes wrong with one request's text ends that request, and no other."""
        guarded(
            lambda: self._feed(entry, new, end),
            lambda failure: self._end(entry, "error", failure=failure),
        )

    def _feed(self, entry: Entry, new: list[int], end: Finished | None) -> None:
        """Add tokens; the entry is over after it if a stop string came."""
        if entry.first_at is None:
            entry.first_at = self._clock()
        if not entry.prepared.max_tokens:
            return  # the engine generates one at least; it was not asked for
        before = len(entry.tokens)
        entry.tokens += new
        if entry.stream is None:
            return
        stopped = end is not None and end.matched >= 0
        hidden = stopped and not entry.prepared.params.no_stop_trim
        cut = entry.stream.feed(new[:-1] if hidden else new)
        _append(entry, cut.text)
        if cut.matched is not None:
            # Tokens after the one that completed the stop were never asked for.
            del entry.tokens[before + cut.used :]
            self._end(entry, "stop", matched=cut.matched, end=end)

    def _finish(self, entry: Entry, end: Finished) -> None:
        matched: int | str | None = end.matched if end.matched >= 0 else None
        reason = end.reason
        if not entry.prepared.max_tokens and reason == "stop":
            reason, matched = "length", None
        if entry.stream is not None:
            cut = entry.stream.finish()
            _append(entry, cut.text)
            if cut.matched is not None and reason in ("stop", "length"):
                reason, matched = "stop", cut.matched
        self._end(entry, reason, matched=matched, failure=end.failure, end=end)

    def _end(
        self,
        entry: Entry,
        reason: FinishReason,
        *,
        matched: int | str | None = None,
        failure: Failure | None = None,
        end: Finished | None = None,
    ) -> None:
        assert not entry.is_over, f"request {entry.id} ended twice"
        entry.reason, entry.matched, entry.failure, entry.end = reason, matched, failure, end
        entry.ended_at = self._clock()
        entry.stream = None


def _cut(output: StepOutput) -> Iterable[tuple[RequestId, list[int]]]:
    """Each request's new tokens."""
    tokens, taken = output.tokens.tolist(), 0
    for number, count in zip(output.requests.tolist(), output.counts.tolist(), strict=True):
        if count:
            yield RequestId(number), tokens[taken : taken + count]
        taken += count


def _append(entry: Entry, text: str) -> None:
    if text:
        entry.pieces.append(text)


def _tell(entries: Iterable[Entry]) -> None:
    for entry in entries:
        if entry.is_over or entry.watch.every_step:
            entry.watch.tell(entry)
