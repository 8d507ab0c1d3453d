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
    def __init__(self, tree: RadixTree, order: Order) -> None:
        self.tree = tree
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
            self._remove(tail)
            self.tree.forget_keys(node.parent, [self.tree.key(tail)])
        return joined([tail.pages for tail in tails])

    def evict(self, pages: int) -> Ids:
        """Drop so many unpinned pages in order, each from the end of a leaf; returns them."""
        assert pages <= self.counts.unpinned, "I4: more is to be evicted than is evictable"
        dropped: list[Ids] = []
        keys: defaultdict[Node, list[bytes]] = defaultdict(list)
        left = pages
        while left > 0:
            leaf = self.leaves.pop()
            assert leaf is not None, "I4: evictable pages are counted, and no leaf is evictable"
            if len(leaf.pages) > left:
                dropped.append(self._trim(leaf, left))
                break
            left -= len(leaf.pages)
            dropped.append(leaf.pages)
            assert leaf.parent is not None, "a root is not evicted"
            keys[leaf.parent].append(self.tree.key(leaf))
            self._remove(leaf)
        for parent, gone in keys.items():
            self.tree.forget_keys(parent, gone)
            self.tree.prune(parent)
        self.counts.evicted += pages
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
                self._uncount(node)
                unused.append(node.pages)
        if top.parent is not None:
            self._look_at(top.parent)
        return joined(unused)

    def _remove(self, leaf: Node) -> None:
        """Take an unpinned leaf out; its key in the sorted ones is left to the caller."""
        parent = leaf.parent
        assert parent is not None, "a root is not removed"
        del parent.children[self.tree.key(leaf)]
        leaf.stale = True
        self._uncount(leaf)
        self.tree.version += 1
        if parent.is_evictable_leaf:
            self.leaves.push(parent)

    def _trim(self, leaf: Node, pages: int) -> Ids:
        """Drop the last pages of a leaf; its beginning stays."""
        dropped, tokens = leaf.pages[-pages:], pages * self.tree.page_size
        leaf.tokens, leaf.pages = leaf.tokens[:-tokens].copy(), leaf.pages[:-pages].copy()
        leaf.end -= tokens
        self.counts.cached -= pages
        self.counts.unpinned -= pages
        self.counts.unpinned_tokens -= tokens
        self.tree.version += 1
        self.leaves.push(leaf)
        return dropped

    def _uncount(self, node: Node) -> None:
        self.counts.cached -= len(node.pages)
        self.counts.unpinned -= len(node.pages)
        self.counts.unpinned_tokens -= len(node.tokens)

    def _look_at(self, node: Node) -> None:
        """A node lost a child or its last pin: it may be next to go."""
        if node.is_evictable_leaf:
            self.leaves.push(node)
        else:
            self.tree.prune(node)
