"""Policies that look at what the cache has of each prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from espalier.scheduler.policy import Queued


def longest_prefix(queue: Sequence[Queued], now: float) -> Sequence[Queued]:
    """Whoever shares most with the cache first, before it is evicted."""
    del now
    return sorted(queue, key=lambda one: (-one.cached, one.sequence))


def heaviest_branch(queue: Sequence[Queued], now: float) -> Sequence[Queued]:
    """Branch of the tree by branch, the one that most are waiting for first."""
    del now
    branches: dict[int, list[Queued]] = defaultdict(list)
    for one in queue:
        branches[one.place].append(one)
    for branch in branches.values():
        branch.sort(key=lambda one: (-one.cached, one.sequence))
    heaviest = sorted(branches.values(), key=lambda b: (-len(b), b[0].sequence))
    return [one for branch in heaviest for one in branch]
