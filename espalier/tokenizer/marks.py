"""Keeps what a client wrote apart from what a template wrote, through the template.

A template mixes both into one text, and a client may have typed `<|im_end|>`. So every spelling of a
control token in the client's strings is broken before the template sees it, by a mark inside; and a
string that could become one by standing next to other text (it ends with `<|im`) gets a mark at that
edge. What then still spells a control token in the result was written by the template. The marks are
halves of surrogate pairs: strings that hold them are no text and are refused at the door, so nobody
can type them, and none can be in a template's file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

INSIDE, EDGE, END = "\udc00", "\udc01", "\udc02"
MARKS = frozenset({INSIDE, EDGE, END})
_DROP = dict.fromkeys(map(ord, MARKS))
# checked against a list instead: templates build control tokens of it


def unmarked(text: str) -> str:
    return text.translate(_DROP)


class Marker:
    """Marks strings against a set of control tokens; `constants` are words the template asks for."""

    def __init__(self, control: AbstractSet[str], constants: AbstractSet[str]) -> None:
        self._constants = constants
        self._longest = max(map(len, control), default=0)
        lowered = [text.lower() for text in control]
        self._starts = {text[:end] for text in lowered for end in range(1, len(text))}
        self._ends = {text[start:] for text in lowered for start in range(1, len(text))}
        self._all = "\0".join(lowered)
        self._spelling = _first_letters(control)

    def marked(self, value: Any) -> Any:
        """A copy of a JSON value with its strings marked."""
        match value:
            case str():
                return self._text(value)
            case Mapping():
                return {self._broken(str(key)): self.marked(item) for key, item in value.items()}
            case list() | tuple():
                return [self.marked(item) for item in value]
            case _:
                return value

    def _text(self, text: str) -> str:
        lowered = text[: self._longest].lower()
        inner = len(text) < self._longest and text and lowered in self._all
        if inner and text not in self._constants:
            return f"{EDGE}{self._broken(text)}{EDGE}"
        return self._broken(text)

    def _broken(self, text: str) -> str:
        lengths = range(1, min(self._longest, len(text) + 1))
        before = EDGE if any(text[:size].lower() in self._ends for size in lengths) else ""
        after = EDGE if any(text[-size:].lower() in self._starts for size in lengths) else ""
        if self._spelling is None:
            return text
        return f"{before}{self._spelling.sub(_break, text)}{after}"


def _break(found: re.Match[str]) -> str:
    return found[0] + INSIDE


def split(
    text: str, control: Mapping[str, int], pattern: re.Pattern[str] | None
) -> list[str | int]:
    """A rendered text without its marks, cut at the control tokens that the template wrote."""
    pieces: list[str | int] = []
    start = 0
    for found in pattern.finditer(text) if pattern else ():
        pieces += [unmarked(text[start : found.start()]), control[found[0]]]
        start = found.end()
    return [*pieces, unmarked(text[start:])]


def whole_pattern(control: Iterable[str]) -> re.Pattern[str] | None:
    """Finds control tokens, the longest where several begin, and none that a client typed."""
    tree = _tree(control)
    return re.compile(f"{_pattern(tree)}(?!{INSIDE})") if tree else None


def _first_letters(control: Iterable[str]) -> re.Pattern[str] | None:
    """Finds the first letter of every spelling, those that overlap and other cases included."""
    tree = _tree(control)
    if not tree:
        return None
    ways = [f"{re.escape(letter)}(?={_pattern(rest)})" for letter, rest in tree.items()]
    return re.compile("|".join(ways), re.IGNORECASE)


_Tree = dict[str, Any]  # letters to what may follow; "" ends a token


def _tree(texts: Iterable[str]) -> _Tree:
    tree: _Tree = {}
    for text in texts:
        node = tree
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = {}
    return tree


def _pattern(tree: _Tree) -> str:
    """A pattern that reads each letter once, however many tokens begin with it."""
    ways = [re.escape(letter) + _pattern(rest) for letter, rest in tree.items() if letter]
    if not ways:
        return ""
    body = ways[0] if len(ways) == 1 and "" not in tree else f"(?:{'|'.join(ways)})"
    return f"{body}?" if "" in tree else body
