"""One request's state in the scheduler: what it asked, where it stands, what it holds.

While it runs, its numbers are columns (`slots.py`); this object is touched when it joins and when
it ends. A feature keeps its own table, keyed by request; it adds no field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from espalier.cache.node import Loan, Match
from espalier.cache.prefix import Hold
from espalier.protocol.arrays import Ids
from espalier.protocol.messages import Generate, RequestId

Phase: TypeAlias = Literal["waiting", "running", "ended"]


@dataclass(slots=True, eq=False)
class Request:
    message: Generate
    tokens: Ids  # the prompt, and the output known when it last joined the queue
    arrival: float
    sequence: int  # order of arrival; kept when it is put back
    phase: Phase = "waiting"
    slot: int = -1
    hold: Hold | None = None  # the cached path that its first pages belong to
    loan: Loan | None = None  # its unfinished page, lent to those who share its prompt
    matched: int = 0  # pages of its path that others had computed when it joined
    cached: int = -1  # prompt tokens found in the cache when it first joined
    scored: int = 0  # prompt positions whose log probabilities were sent
    waited: bool = False  # it let a step pass for a prefix that another request computes
    retried: bool = False  # it was in a step that ran out of memory, once
    preemptions: int = 0
    match: Match | None = None  # the last look-up, good for `match_version` of the cache
    match_version: int = -1

    @property
    def id(self) -> RequestId:
        return self.message.request

    @property
    def prompt_length(self) -> int:
        return len(self.message.prompt)

    @property
    def limit(self) -> int:
        """The most tokens it may ever have, the prompt included."""
        return self.prompt_length + self.message.max_tokens

    @property
    def order(self) -> tuple[int, int]:
        """Its place among requests: higher priority first, then who came first."""
        return -self.message.priority, self.sequence

    @property
    def unscored_from(self) -> int | None:
        """The first position that must be computed for its logits' sake; None: none must."""
        wanted = self.message.logprobs
        if wanted is None or wanted.prompt_from < 0:
            return None
        first = max(wanted.prompt_from - 1, self.scored, 0)
        return first if first < self.prompt_length - 1 else None

    @property
    def match_limit(self) -> int:
        """How much of it may come from the cache: the last token gives the logits of the next."""
        first = self.unscored_from
        most = len(self.tokens) - 1
        return most if first is None else min(most, first)
