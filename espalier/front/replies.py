"""The entries of one call, as replies: all of them at the end, or the news of each as it comes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from espalier.front.reply import check, reply
from espalier.front.table import Entry, Table
from espalier.protocol.messages import RequestId
from espalier.tokenizer.base import Tokenizer

log = logging.getLogger(__name__)


class Replies:
    """What is `single` is a dict, and raises what ended it if that was an error.

    Of several, one that failed in the engine says so in its `finish_reason`, and the others are
    not lost; if all failed, the first one's error is raised.
    """

    def __init__(
        self, entries: Sequence[Entry], table: Table, tokenizer: Tokenizer | None, *, single: bool
    ) -> None:
        self.entries = entries
        self._table = table
        self._tokenizer = tokenizer
        self._single = single
        self._index = {entry.id: index for index, entry in enumerate(entries)}
        self._told: dict[RequestId, int] = dict.fromkeys(self._index, 0)  # tokens; until its end

    @property
    def is_told(self) -> bool:
        """Whether every end was told."""
        return not self._told

    def all(self) -> Any:
        """The whole answer, when every entry is over."""
        failed = [entry for entry in self.entries if entry.reason == "error"]
        if len(failed) == len(self.entries):
            check(failed[0])
        if failed:
            log.error(
                "%d of %d requests failed; their finish_reason says why",
                len(failed),
                len(self.entries),
            )
        said = [reply(entry, self._tokenizer) for entry in self.entries]
        return said[0] if self._single else said

    def news(self, changed: Iterable[Entry]) -> Iterator[dict[str, Any]]:
        """What the changed ones have now; with `index` where there are several."""
        for entry in changed:
            with self._table.lock:
                said = self._news(entry)
            if said is not None:
                yield said

    def _news(self, entry: Entry) -> dict[str, Any] | None:
        told = self._told.get(entry.id)
        interval = entry.prepared.params.stream_interval
        if told is None or not (entry.is_over or len(entry.tokens) - told >= interval):
            return None
        if entry.is_over:
            del self._told[entry.id]
        else:
            self._told[entry.id] = len(entry.tokens)
        if self._single:
            check(entry)
            return reply(entry, self._tokenizer)
        return {**reply(entry, self._tokenizer), "index": self._index[entry.id]}
