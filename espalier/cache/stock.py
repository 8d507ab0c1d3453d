"""The pages that nodes hold: who pins them, and which of them go first when pages are needed.

What nobody pins is counted as evictable and, from its leaves, evicted in order. What leaves the
tree while somebody stands on it is stale: no look-up finds it, and its pages stay until the last
pin goes. Pages given up are returned; freeing them is the caller's.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from espalier.cache.eviction import Leaves, Order
from espalier.cache.node import Node, joined, path
from espalier.cache.radix import RadixTree
from espalier.protocol.arrays import Ids


@dataclass(slots=True)
class Counts:
    """Pages and tokens in nodes, by whether somebody pins them."""

    cached: int = 0
    unpinned: int = 0
    unpinned_tokens: int = 0
    evicted: int = 0  # pages since the start


class Stock:
    def __init__(
        self, tree: RadixTree, order: Order, *, sharing: bool, max_tokens: int | None
    ) -> None:
        self.tree = tree
        self.sharing = sharing
        self.max_tokens = max_tokens  # to keep that nobody pins
        self.leaves = Leaves(order)
        self.counts = Counts()
        self.stale: set[Node] = set()
        self._clock = 0

    def tick(self) -> None:
        """What is touched from now on is used later than all before."""
        self._clock += 1

    def touch(self, node: Node) -> None:
        node.last_used = self._clock
        node.hits += 1
        if node.is_evictable_leaf:
            self.leaves.push(node)

    def pin(self, node: Node) -> None:
        """Pin one node; whoever pins a path pins every node on it."""
        if not node.pins:
            self.counts.unpinned -= len(node.pages)
            self.counts.unpinned_tokens -= len(node.tokens)
        node.pins += 1

    def unpin_path(self, end: Node) -> Ids:
        """Take one pin from every node up to the root; returns pages of stale ones now unused."""
        unused: list[Ids] = []
        for node in path(end):
            assert node.pins > 0, "I3: unpinned more often than pinned"
            node.pins -= 1
            if node.pins:
                continue
            if node.stale:
                self.stale.remove(node)
                self.counts.cached -= len(node.pages)
                unused.append(node.pages)
            else:
                self.counts.unpinned += len(node.pages)
                self.counts.unpinned_tokens += len(node.tokens)
                self._look_at(node)
        return joined(unused)

    def grow(self, parent: Node, tokens: Ids, pages: Ids, step: int) -> Node:
        """A new node under `parent`, pinned once for the hold that it is for."""
        node = Node(
            parent.namespace,
            tokens.copy(),
            pages.copy(),
            parent,
            parent.end + len(tokens),
            pending=step,
            pins=1,
            stale=parent.stale or not self.sharing,
        )
        self.enter(node)
        return node

    def enter(self, node: Node) -> None:
        """A new node, its parent set: into the tree, or out of it from the start if it is stale."""
        node.created = node.last_used = self._clock
        self.counts.cached += len(node.pages)
        if node.stale:
            self.stale.add(node)
            return
        self.tree.attach(node)
        if not node.pins:
            self.counts.unpinned += len(node.pages)
            self.counts.unpinned_tokens += len(node.tokens)
            self._look_at(node)

    def drop_tails(self, node: Node) -> Ids:
        """Remove the tails beside `node` that it makes superfluous; returns their pages."""
        assert node.parent is not None, "a root stands beside nothing"
        tails = self.tree.tails_before(node.parent, self.tree.key(node))
        for tail in tails:
            assert not tail.pins, "I3: a tail is copied from, never pinned"
            key = self.tree.key(tail)
            self._uncount(len(tail.pages), len(tail.tokens))
            self._remove(tail, key)
            self.tree.forget_keys(node.parent, [key])
        return joined([tail.pages for tail in tails])

    def evict(self, pages: int) -> Ids:
        """Drop so many unpinned pages in order, each from the end of a leaf; returns them."""
        assert pages <= self.counts.unpinned, "I4: more is to be evicted than is evictable"
        dropped: list[Ids] = []
        keys: defaultdict[Node, list[bytes]] = defaultdict(list)
        left, tokens = pages, 0
        while left > 0:
            leaf = self.leaves.pop()
            assert leaf is not None, "I4: evictable pages are counted, and no leaf is evictable"
            if len(leaf.pages) > left:
                dropped.append(self._trim(leaf, left))
                tokens += left * self.tree.page_size
                break
            left -= len(leaf.pages)
            tokens += len(leaf.tokens)
            dropped.append(leaf.pages)
            assert leaf.parent is not None, "a root is not evicted"
            key = self.tree.key(leaf)
            keys[leaf.parent].append(key)
            self._remove(leaf, key)
        for parent, gone in keys.items():
            if not parent.stale:
                self.tree.forget_keys(parent, gone)
                self.tree.prune(parent)
        self._uncount(pages, tokens)
        self.counts.evicted += pages
        self.tree.version += 1
        return joined(dropped)

    def evict_excess(self) -> Ids:
        """Evict until no more than `max_tokens` are kept that nobody pins; returns the pages."""
        dropped: list[Ids] = []
        while self.max_tokens is not None and self.counts.unpinned_tokens > self.max_tokens:
            over = -(-(self.counts.unpinned_tokens - self.max_tokens) // self.tree.page_size)
            dropped.append(self.evict(over))
        return joined(dropped)

    def discard(self, top: Node) -> Ids:
        """A subtree leaves the tree; returns the pages that nobody pins."""
        self.tree.detach(top)
        unused: list[Ids] = []
        stack = [top]
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            for loan in [loan for loans in node.loans.values() for loan in loans]:
                self.tree.withdraw(loan)
            node.stale = True
            node.children, node.keys = {}, []
            if node.pins:
                self.stale.add(node)
            else:
                self._uncount(len(node.pages), len(node.tokens))
                unused.append(node.pages)
        if top.parent is not None:
            self._look_at(top.parent)
        return joined(unused)

    def _remove(self, leaf: Node, key: bytes) -> None:
        """Take an unpinned leaf out; counting, and the sorted keys, are the caller's."""
        parent = leaf.parent
        assert parent is not None, "a root is not removed"
        del parent.children[key]
        leaf.stale = True
        if parent.is_evictable_leaf:
            self.leaves.push(parent)

    def _trim(self, leaf: Node, pages: int) -> Ids:
        """Drop the last pages of a leaf; its beginning stays. Counting is the caller's."""
        dropped, tokens = leaf.pages[-pages:], pages * self.tree.page_size
        leaf.tokens, leaf.pages = leaf.tokens[:-tokens].copy(), leaf.pages[:-pages].copy()
        leaf.end -= tokens
        self.leaves.push(leaf)
        return dropped

    def _uncount(self, pages: int, tokens: int) -> None:
        self.counts.cached -= pages
        self.counts.unpinned -= pages
        self.counts.unpinned_tokens -= tokens

    def _look_at(self, node: Node) -> None:
        """A node lost a child or its last pin: it may be next to go."""
        if node.is_evictable_leaf:
            self.leaves.push(node)
        else:
            self.tree.prune(node)
