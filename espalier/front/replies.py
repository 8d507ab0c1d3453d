"""The entries of one call, as replies: all at the end, or what is new each time it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from espalier.front.reply import check, reply
from espalier.front.table import Entry, Table
from espalier.tokenizer.base import Tokenizer

_TOLD_ALL = -1


class Replies:
    def __init__(
        self,
        entries: Sequence[Entry],
        table: Table,
        tokenizer: Tokenizer | None,
        *,
        is_single: bool,
        text_in_logprobs: bool,
    ) -> None:
        self.entries = entries
        self._table = table
        self._tokenizer = tokenizer
        self._is_single = is_single
        self._text_in_logprobs = text_in_logprobs
        self._told = [0] * len(entries)  # tokens that were told, or _TOLD_ALL

    @property
    def num_over(self) -> int:
        return sum(entry.is_over for entry in self.entries)

    @property
    def is_told(self) -> bool:
        """Whether every end was told."""
        return all(told == _TOLD_ALL for told in self._told)

    def all(self) -> Any:
        """The whole answer; raises what ended a request, if that was an error."""
        for entry in self.entries:
            check(entry)
        said = [self._said(entry) for entry in self.entries]
        return said[0] if self._is_single else said

    def news(self) -> list[dict[str, Any]]:
        """What changed since it was last asked, cumulative; with `index` where there are several."""
        fresh: list[dict[str, Any]] = []
        with self._table.lock:
            for index, entry in enumerate(self.entries):
                if self._is_news(index, entry):
                    said = self._said(entry)
                    fresh.append(said if self._is_single else {**said, "index": index})
                    self._told[index] = _TOLD_ALL if entry.is_over else len(entry.tokens)
        return fresh

    def check(self) -> None:
        """Raise the first error among those that ended."""
        for entry in self.entries:
            check(entry)

    def _is_news(self, index: int, entry: Entry) -> bool:
        told = self._told[index]
        if told == _TOLD_ALL:
            return False
        interval = entry.prepared.params.stream_interval
        return entry.is_over or len(entry.tokens) - told >= interval

    def _said(self, entry: Entry) -> dict[str, Any]:
        return reply(entry, self._tokenizer, text_in_logprobs=self._text_in_logprobs)
