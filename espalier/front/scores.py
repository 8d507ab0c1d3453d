"""Log probabilities of a step, from columns to a row for each position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from espalier.protocol.arrays import Floats, Ids
from espalier.protocol.messages import Logprobs

Pairs = tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """The log probabilities at one position: of its token, the likeliest ones, the listed ones."""

    value: float
    token: int
    top: Pairs
    listed: Pairs


def scored(logprobs: Logprobs) -> Iterator[tuple[int, int, Scored]]:
    """Owner, position and row, in order."""
    owners, positions = logprobs.owners.tolist(), logprobs.positions.tolist()
    tokens, values = logprobs.tokens.tolist(), logprobs.values.tolist()
    tops = _pairs(logprobs.top_values, logprobs.top_tokens, logprobs.top_counts)
    lists = _pairs(logprobs.listed_values, logprobs.listed_tokens, logprobs.listed_counts)
    for row, (owner, top, listed) in enumerate(zip(owners, tops, lists, strict=True)):
        yield owner, positions[row], Scored(values[row], tokens[row], top, listed)


def _pairs(values: Floats, tokens: Ids, counts: Ids) -> Iterator[Pairs]:
    """A ragged column, cut by its counts."""
    pairs = list(zip(values.tolist(), tokens.tolist(), strict=True))
    start = 0
    for count in counts.tolist():
        yield tuple(pairs[start : start + count])
        start += count
