"""Policies: pure functions that order the queue. They see it and the clock, and can break nothing.

Priority classes come before any policy: the queue hands over requests of one priority at a time.
Whoever has waited longer than `PATIENCE_S` goes first whatever the policy says, so none starves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from espalier.registry import Registry

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Queued:
    """What a policy may know of one who waits."""

    sequence: int  # order of arrival
    arrival: float
    prompt: int  # tokens,
    cached: int  # of which so many are in the cache,
    place: int  # ending at this place of the tree: equal for those who share all of it
    max_tokens: int


Policy: TypeAlias = Callable[[Sequence[Queued], float], Sequence[Queued]]
POLICIES: Registry[Policy] = Registry(
    "scheduling policy",
    {
        "fcfs": "espalier.scheduler.policies.order:first_come",
        "priority": "espalier.scheduler.policies.order:first_come",
        "random": "espalier.scheduler.policies.order:shuffled",
        "lof": "espalier.scheduler.policies.order:longest_output",
        "lpm": "espalier.scheduler.policies.prefix:longest_prefix",
        "dfs-weight": "espalier.scheduler.policies.prefix:heaviest_branch",
    },
)
# These keep the order of arrival, so the queue asks them nothing and looks nothing up.
IN_ORDER = frozenset({"fcfs", "priority"})


def order(policy: Policy, queue: Sequence[Queued], now: float) -> list[Queued]:
    """The policy's order, behind those whose patience is at its end."""
    overdue = [one for one in queue if now - one.arrival > PATIENCE_S]
    if not overdue:
        return list(policy(queue, now))
    overdue.sort(key=lambda one: one.sequence)
    late = {one.sequence for one in overdue}
    rest = [one for one in queue if one.sequence not in late]
    return [*overdue, *policy(rest, now)]
