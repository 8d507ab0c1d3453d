"""Which leaf is evicted first. An order is a function from a node to its sort key; least goes first.

Leaves enter a heap when they become evictable. Whoever is used or grows later is not looked for in
the heap: its entry there no longer bears the node's newest stamp, and is skipped when it comes up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, TypeAlias

from espalier.cache.node import Node
from espalier.registry import Registry

Order: TypeAlias = Callable[[Node], tuple[int, ...]]
ORDERS: Registry[Order] = Registry(
    "eviction order",
    {
        "lru": "espalier.cache.eviction:least_recently_used",
        "lfu": "espalier.cache.eviction:least_often_used",
        "slru": "espalier.cache.eviction:used_once_first",
        "mru": "espalier.cache.eviction:most_recently_used",
        "fifo": "espalier.cache.eviction:oldest",
        "filo": "espalier.cache.eviction:newest",
        "priority": "espalier.cache.eviction:least_priority",
    },
)
_PROTECTED_HITS = 2  # whoever was used so often is evicted after all who were not
_LEAST_LIMIT = 1024


def least_recently_used(node: Node) -> tuple[int, ...]:
    return (node.last_used,)


def least_often_used(node: Node) -> tuple[int, ...]:
    return (node.hits, node.last_used)


def used_once_first(node: Node) -> tuple[int, ...]:
    return (int(node.hits >= _PROTECTED_HITS), node.last_used)


def most_recently_used(node: Node) -> tuple[int, ...]:
    return (-node.last_used,)


def oldest(node: Node) -> tuple[int, ...]:
    return (node.created,)


def newest(node: Node) -> tuple[int, ...]:
    return (-node.created,)


def least_priority(node: Node) -> tuple[int, ...]:
    return (node.priority, node.last_used)


class Leaves:
    """Evictable leaves in order. Equal keys go in the order in which they became evictable."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._heap: list[tuple[Any, ...]] = []  # (*key, stamp, node)
        self._stamp = 0
        self._limit = _LEAST_LIMIT

    def push(self, node: Node) -> None:
        """`node` is evictable from now on, or has moved in the order."""
        self._stamp += 1
        node.stamp = self._stamp
        heapq.heappush(self._heap, (*self._order(node), node.stamp, node))
        if len(self._heap) > self._limit:
            self._heap = [entry for entry in self._heap if _holds(entry)]
            heapq.heapify(self._heap)
            self._limit = max(2 * len(self._heap), _LEAST_LIMIT)

    def pop(self) -> Node | None:
        """The next to be evicted, taken out."""
        while self._heap:
            *_, stamp, leaf = heapq.heappop(self._heap)
            if leaf.stamp == stamp and leaf.is_evictable_leaf:
                evictable: Node = leaf
                return evictable
        return None

    def standing(self) -> set[Node]:
        """All leaves in the order; for checks."""
        return {entry[-1] for entry in self._heap if _holds(entry)}


def _holds(entry: tuple[Any, ...]) -> bool:
    node: Node = entry[-1]
    return bool(node.stamp == entry[-2]) and node.is_evictable_leaf
