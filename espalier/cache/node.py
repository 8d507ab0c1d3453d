"""What the prefix tree is made of: nodes, pages lent to it, and the answer to a look-up.

A node stands for a run of tokens and the pages that hold their keys and values: whole pages, or,
in a leaf of its own kind (a tail), one page that is not full. Only `radix.py` changes nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from espalier.protocol.arrays import NO_IDS, Ids


@dataclass(slots=True, eq=False)
class Node:
    """The edge into a node, and the node itself."""

    namespace: str
    tokens: Ids
    pages: Ids
    parent: Node | None
    end: int  # tokens from the root to here
    pending: int = 0  # the step whose forward fills it; at most the last settled one: it is ready
    priority: int = 0
    created: int = 0
    last_used: int = 0
    hits: int = 0
    pins: int = 0  # holds and steps in flight whose path goes through it
    stale: bool = False  # out of the tree; while pinned, it keeps its pages
    stamp: int = 0  # of its newest place in the order of eviction
    children: dict[bytes, Node] = field(default_factory=dict)  # by the bytes of their first page
    loans: dict[bytes, list[Loan]] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)  # of children and loans, sorted

    @property
    def start(self) -> int:
        return self.end - len(self.tokens)

    @property
    def is_evictable_leaf(self) -> bool:
        return not (self.pins or self.children or self.stale) and self.parent is not None


@dataclass(slots=True, eq=False)
class Loan:
    """A request's unfinished page that others may copy from; it stays the request's."""

    node: Node
    key: bytes
    page: int
    step: int
    is_entered: bool = True


@dataclass(frozen=True, slots=True)
class Match:
    """The longest cached prefix of a query.

    `whole` tokens stand in whole pages that may be used where they are; `tail` more stand at the
    beginning of `tail_page`, to be copied to a page of one's own. `awaited` further tokens could be
    copied once the step that computes them has come back.
    """

    namespace: str
    node: Node  # `whole` ends in its edge
    whole: int
    version: int  # of the tree that was asked
    tail_page: int = -1
    tail: int = 0
    awaited: int = 0
    tail_node: Node | None = None  # whose page `tail_page` is; None if it is lent

    @property
    def length(self) -> int:
        return self.whole + self.tail


def root_of(namespace: str) -> Node:
    return Node(namespace, NO_IDS, NO_IDS, None, 0)


def path(node: Node) -> Iterator[Node]:
    """From `node` up to the root, both included."""
    step: Node | None = node
    while step is not None:
        yield step
        step = step.parent


def of_one_step(node: Node) -> list[Node]:
    """`node` and those right above it that the same step fills: splits make several of one."""
    parts = [node]
    while (above := parts[-1].parent) is not None and above.parent is not None:
        if not node.pending or above.pending != node.pending:
            break
        parts.append(above)
    return parts


def joined(arrays: list[Ids]) -> Ids:
    """The arrays one after the other."""
    if not arrays:
        return NO_IDS
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def common(left: Ids, right: Ids) -> int:
    """How many tokens two runs share from their beginning."""
    size = min(len(left), len(right))
    if not size:
        return 0
    equal = left[:size] == right[:size]
    first = int(equal.argmin())
    return size if equal[first] else first


def common_bytes(left: bytes, right: bytes) -> int:
    """How many int32 tokens two short keys share from their beginning."""
    size = min(len(left), len(right))
    differ = int.from_bytes(left[:size], "big") ^ int.from_bytes(right[:size], "big")
    return (8 * size - differ.bit_length()) // 32
