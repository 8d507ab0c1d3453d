"""Policies that look at the requests alone."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.scheduler.policy import Queued

_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: consecutive numbers end up far apart
_MASK = 2**64 - 1


def first_come(queue: Sequence[Queued], now: float) -> Sequence[Queued]:
    del now
    return sorted(queue, key=lambda one: one.sequence)


def shuffled(queue: Sequence[Queued], now: float) -> Sequence[Queued]:
    """An order unrelated to arrival, the same whenever it is asked; for tests and comparisons."""
    del now
    return sorted(queue, key=lambda one: _scattered(one.sequence))


def longest_output(queue: Sequence[Queued], now: float) -> Sequence[Queued]:
    """Who may generate most goes first, so that the last to finish did not also start last."""
    del now
    return sorted(queue, key=lambda one: (-one.max_tokens, one.sequence))


def _scattered(number: int) -> int:
    mixed = (number + 1) * _MULTIPLIER & _MASK
    mixed = (mixed ^ mixed >> 29) * _MULTIPLIER & _MASK
    return mixed ^ mixed >> 32
