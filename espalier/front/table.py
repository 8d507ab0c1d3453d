"""The request table: one entry a request, from the moment it is sent to its terminal event.

An entry turns tokens into text as they come, looks for stop strings, and gathers what the reply
will say. The engine does not know of text: a stop string ends the entry here, cut exactly, and the
engine is told to abort; what it still sends is not looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from espalier.front.intake import Prepared
from espalier.protocol.arrays import Floats, Ids
from espalier.protocol.messages import Failure, Finished, Logprobs, RequestId, StepOutput
from espalier.tokenizer.base import Tokenizer
from espalier.tokenizer.detokenize import Detokenizer
from espalier.tokenizer.stop import StopStrings

Wake = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """The log probabilities at one position: of its token, the likeliest ones, the listed ones."""

    value: float
    token: int
    top: tuple[tuple[float, int], ...]
    listed: tuple[tuple[float, int], ...]


@dataclass(slots=True, eq=False)
class Entry:
    """One request: what was asked, and what has come. Read it under the table's lock."""

    id: RequestId
    prepared: Prepared
    sample: int
    wake: Wake
    sent_at: float
    detokenizer: Detokenizer | None = None
    stops: StopStrings | None = None
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    scores: dict[int, Scored] = field(default_factory=dict)  # by position
    cached: int = 0
    first_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None  # None while it runs
    matched: int | str | None = None
    failure: Failure | None = None
    end: Finished | None = None  # the engine's own word, if it had the last

    @property
    def is_over(self) -> bool:
        return self.reason is not None


class Table:
    def __init__(self, tokenizer: Tokenizer | None, clock: Callable[[], float]) -> None:
        self._tokenizer = tokenizer
        self._clock = clock
        self._entries: dict[RequestId, Entry] = {}
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, request: RequestId, prepared: Prepared, sample: int, wake: Wake) -> Entry:
        entry = Entry(request, prepared, sample, wake, self._clock())
        if self._tokenizer is not None:
            skip = prepared.params.skip_special_tokens
            entry.detokenizer = Detokenizer(self._tokenizer, prepared.prompt, skip_special=skip)
        if prepared.stops is not None:
            entry.stops = StopStrings(prepared.stops, include=prepared.params.no_stop_trim)
        with self.lock:
            self._entries[request] = entry
        return entry

    def labelled(self, label: str) -> list[Entry]:
        """The entries whose client gave them exactly this label."""
        with self.lock:
            return [e for e in self._entries.values() if e.prepared.wishes.label == label]

    def take(self, output: StepOutput) -> tuple[list[RequestId], int]:
        """Take a step's news in. Returns what the engine is to abort, and how many ended."""
        touched: set[Entry] = set()
        aborts: list[RequestId] = []
        with self.lock:
            before = len(self._entries)
            finished = {one.request: one for one in output.finished}
            for admitted in output.admitted:
                if entry := self._entries.get(admitted.request):
                    entry.cached = admitted.cached
            if output.logprobs is not None:
                self._take_scores(output.logprobs)
            self._take_tokens(output, finished, touched, aborts)
            for one in output.finished:
                if entry := self._entries.pop(one.request, None):
                    self._finish(entry, one)
                    touched.add(entry)
            ended = before - len(self._entries)
        for entry in touched:
            entry.wake()
        return aborts, ended

    def close(self, failure: Failure) -> None:
        """The engine is gone: whoever is still there gets an end."""
        with self.lock:
            left = list(self._entries.values())
            self._entries.clear()
            for entry in left:
                self._end(entry, "error", failure=failure)
        for entry in left:
            entry.wake()

    def _take_tokens(
        self,
        output: StepOutput,
        finished: dict[RequestId, Finished],
        touched: set[Entry],
        aborts: list[RequestId],
    ) -> None:
        tokens, taken = output.tokens.tolist(), 0
        for number, count in zip(output.requests.tolist(), output.counts.tolist(), strict=True):
            new = tokens[taken : taken + count]
            taken += count
            request = RequestId(number)
            entry = self._entries.get(request)
            if entry is None or not count:
                continue
            touched.add(entry)
            if self._feed(entry, new, finished.get(request)):
                del self._entries[request]
                if request not in finished:
                    aborts.append(request)

    def _feed(self, entry: Entry, new: list[int], end: Finished | None) -> bool:
        """Add tokens; True when a stop string ended the request."""
        if entry.first_at is None:
            entry.first_at = self._clock()
        if not entry.prepared.max_tokens:
            return False
        entry.tokens.extend(new)
        if entry.detokenizer is None:
            return False
        silent = end is not None and end.matched >= 0 and not entry.prepared.params.no_stop_trim
        shown = new[:-1] if silent else new
        return self._show(entry, entry.detokenizer, shown, len(new), end)

    def _show(
        self,
        entry: Entry,
        detokenizer: Detokenizer,
        shown: list[int],
        new: int,
        end: Finished | None,
    ) -> bool:
        if entry.stops is None:
            entry.text += detokenizer.feed(shown)
            return False
        pieces = [detokenizer.feed([token]) for token in shown]
        cut = entry.stops.feed(*pieces)
        entry.text += cut.text
        if cut.matched is None:
            return False
        # Tokens after the one that completed the stop were never asked for.
        del entry.tokens[len(entry.tokens) - new + cut.used :]
        self._end(entry, "stop", matched=cut.matched)
        entry.end = end
        return True

    def _finish(self, entry: Entry, end: Finished) -> None:
        entry.end = end
        matched = end.matched if end.matched >= 0 else None
        held_back = None
        if entry.detokenizer is not None:
            rest = entry.detokenizer.finish()
            if entry.stops is None:
                entry.text += rest
            else:
                cut = entry.stops.feed(rest)
                entry.text += cut.text + ("" if cut.matched else entry.stops.finish())
                held_back = cut.matched
        if held_back is not None:
            self._end(entry, "stop", matched=held_back)
        else:
            self._end(entry, end.reason, matched=matched, failure=end.failure)

    def _end(
        self,
        entry: Entry,
        reason: str,
        *,
        matched: int | str | None = None,
        failure: Failure | None = None,
    ) -> None:
        assert not entry.is_over, f"request {entry.id} ended twice"
        entry.reason, entry.matched, entry.failure = reason, matched, failure
        entry.ended_at = self._clock()

    def _take_scores(self, logprobs: Logprobs) -> None:
        tops, lists = 0, 0
        for row, owner in enumerate(logprobs.owners.tolist()):
            top, listed = int(logprobs.top_counts[row]), int(logprobs.listed_counts[row])
            entry = self._entries.get(RequestId(owner))
            if entry is not None:
                entry.scores[int(logprobs.positions[row])] = Scored(
                    float(logprobs.values[row]),
                    int(logprobs.tokens[row]),
                    _pairs(logprobs.top_values, logprobs.top_tokens, tops, top),
                    _pairs(logprobs.listed_values, logprobs.listed_tokens, lists, listed),
                )
            tops, lists = tops + top, lists + listed


def _pairs(values: Floats, tokens: Ids, start: int, count: int) -> tuple[tuple[float, int], ...]:
    rows = slice(start, start + count)
    return tuple(zip(values[rows].tolist(), tokens[rows].tolist(), strict=True))
