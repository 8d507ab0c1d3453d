"""Stop strings: an output ends where one of them first appears, and none of it is ever shown.

What could be the beginning of a stop is held back until it is known. The match that ends earliest
wins, and of two that end together the longer, so the answer depends on the text alone and not on
how it was cut into tokens. The text given is what stands before the match; with `include` the match
as well. The work is linear in the text, whatever the stops (an Aho-Corasick automaton).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from espalier.errors import OutOfRange

ROOT = 0


class Cut(msgspec.Struct, frozen=True):
    """What may be shown now. `used` of the fed pieces were needed: all, unless a stop `matched`."""

    text: str
    matched: str | None = None
    used: int = 0


class StopAutomaton:
    """Finds the stops; shared by all samples of a request, and never changed."""

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise OutOfRange("stop", "", "a stop string cannot be empty")
        self.first = frozenset(stop[0] for stop in stops)
        self.next: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.fail = [ROOT]
        self.found: list[str | None] = [None]  # the longest stop that ends in this state
        for stop in stops:
            self._add(stop)
        self._link()

    def step(self, state: int, character: str) -> int:
        """The state after one more character: its depth is how much could begin a stop."""
        while character not in self.next[state]:
            if state == ROOT:
                return ROOT
            state = self.fail[state]
        return self.next[state][character]

    def _add(self, stop: str) -> None:
        state = ROOT
        for character in stop:
            if character not in self.next[state]:
                self.next[state][character] = len(self.next)
                self.next.append({})
                self.depth.append(self.depth[state] + 1)
                self.fail.append(ROOT)
                self.found.append(None)
            state = self.next[state][character]
        self.found[state] = stop

    def _link(self) -> None:
        """Breadth first: where to go on when a stop does not; and the stops that end inside it."""
        waiting = deque(self.next[ROOT].values())
        while waiting:
            state = waiting.popleft()
            for character, child in self.next[state].items():
                self.fail[child] = self.step(self.fail[state], character)
                self.found[child] = self.found[child] or self.found[self.fail[child]]
                waiting.append(child)


class StopStrings:
    """One output's search for its stops."""

    def __init__(self, stops: Sequence[str] | StopAutomaton = (), *, include: bool = False) -> None:
        self._automaton = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._include = include
        self._state = ROOT
        self._held = ""

    def feed(self, *pieces: str) -> Cut:
        """Text that may be shown now; pieces are usually the texts of one token each."""
        if len(pieces) == 1:  # a step of one token, by far the most frequent
            return Cut(*self._search(pieces[0]), 1)
        shown: list[str] = []
        for used, piece in enumerate(pieces, 1):
            text, matched = self._search(piece)
            shown.append(text)
            if matched is not None:
                return Cut("".join(shown), matched, used)
        return Cut("".join(shown), None, len(pieces))

    def finish(self) -> str:
        """What was held back and turned out to be no stop."""
        held, self._held, self._state = self._held, "", ROOT
        return held

    def _search(self, piece: str) -> tuple[str, str | None]:
        automaton, state = self._automaton, self._state
        if state == ROOT and automaton.first.isdisjoint(piece):
            return piece, None
        text = self._held + piece
        for end, character in enumerate(piece, len(self._held) + 1):
            state = automaton.step(state, character)
            matched = automaton.found[state]
            if matched is not None:
                self._held, self._state = "", ROOT
                return text[: end if self._include else end - len(matched)], matched
        self._state = state
        shown = len(text) - automaton.depth[state]
        self._held = text[shown:]
        return text[:shown], None
