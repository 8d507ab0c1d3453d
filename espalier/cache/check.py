"""A recount of the whole cache: the invariants I1 to I5, each named in what is raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from espalier.cache.node import Node, joined, path
from espalier.cache.pages import PageAllocator
from espalier.cache.radix import RadixTree
from espalier.cache.stock import Stock
from espalier.protocol.arrays import Ids


def check_cache(allocator: PageAllocator, stock: Stock, owned: Mapping[int, Ids]) -> None:
    nodes = list(stock.tree.nodes())
    cached = joined([node.pages for node in (*nodes, *stock.stale)])
    _check_free(allocator, np.concatenate((cached, *owned.values())))
    _check_pages(allocator, cached, owned)
    assert len(cached) == stock.counts.cached, "I1: the cached pages are miscounted"
    _check_pins(stock, nodes)
    _check_evictable(stock, nodes)
    _check_tree(stock.tree, nodes)
    _check_loans(stock.tree, nodes, owned)


def _check_free(allocator: PageAllocator, used: Ids) -> None:
    """I2: the free list has no duplicates, and nothing in it is owned or cached."""
    free = np.concatenate((allocator.free_pages(), allocator.fenced_pages()))
    assert len(free) == allocator.num_free + allocator.num_fenced, "I2: free pages are miscounted"
    times = np.bincount(free, minlength=allocator.num_pages)
    assert times.max() <= 1, f"I2: page {times.argmax()} is free twice"
    both = free[np.isin(free, used)]
    assert not len(both), f"I2: page {both[0]} is free, and somebody holds it"


def _check_pages(allocator: PageAllocator, cached: Ids, owned: Mapping[int, Ids]) -> None:
    """I1: every page but 0 is in exactly one place."""
    every = (allocator.free_pages(), allocator.fenced_pages(), cached, *owned.values())
    held = np.concatenate(every)
    times = np.bincount(held, minlength=allocator.num_pages)
    assert len(times) == allocator.num_pages, f"I1: page {len(times) - 1} does not exist"
    assert not times[0], "I1: page 0 is held, and it is padding"
    wrong = np.flatnonzero(times[1:] != 1) + 1
    if len(wrong):
        page = int(wrong[0])
        holders = [f"request {number}" for number, pages in owned.items() if page in pages]
        holders += ["the cache"] * int((cached == page).sum())
        raise AssertionError(f"I1: page {page} is held by {' and '.join(holders) or 'nobody'}")


def _check_pins(stock: Stock, nodes: list[Node]) -> None:
    for node in (*nodes, *stock.stale):
        assert node.pins >= 0, f"I3: {node.pins} pins on a node"
        if node.parent is not None:
            assert node.parent.pins >= node.pins, "I4: a child has more pins than its parent"
    for node in stock.stale:
        assert node.stale, "I3: a node in the tree is counted as stale"
        assert node.pins, "I3: a stale node is kept, and nobody pins it"


def _check_evictable(stock: Stock, nodes: list[Node]) -> None:
    unpinned = [node for node in nodes if not node.pins]
    pages = sum(len(node.pages) for node in unpinned)
    tokens = sum(len(node.tokens) for node in unpinned)
    assert pages == stock.counts.unpinned, "I4: the evictable pages are miscounted"
    assert tokens == stock.counts.unpinned_tokens, "I4: the evictable tokens are miscounted"
    leaves = {node for node in nodes if node.is_evictable_leaf}
    assert leaves == stock.leaves.standing(), "I4: the order of eviction has other leaves"
    pending = any(node.pending > stock.tree.settled for node in unpinned)
    assert not pending, "I4: what a step is filling is evictable"


def _check_tree(tree: RadixTree, nodes: list[Node]) -> None:
    for node in nodes:
        parent = node.parent
        assert parent is not None, "I5: a root is among the nodes"
        assert not node.stale, "I5: a stale node is in the tree"
        assert parent.children.get(tree.key(node)) is node, "I5: a child under a wrong page"
        assert node.end == parent.end + len(node.tokens), "I5: an edge has a wrong length"
        assert node.namespace == parent.namespace, "I13: a path leads from tenant to tenant"
        assert _is_whole(node, tree.page_size) or _is_tail(node, tree.page_size), (
            "I5: a node's tokens do not fill its pages"
        )
    for node in (*nodes, *tree.roots.values()):
        keys = sorted({*node.children, *node.loans})
        assert keys == node.keys, "I5: the sorted keys are not those of the children"
    for name, root in tree.roots.items():
        assert root.namespace == name, "I13: a root stands under another's name"


def _is_whole(node: Node, page_size: int) -> bool:
    return len(node.tokens) == len(node.pages) * page_size > 0


def _is_tail(node: Node, page_size: int) -> bool:
    is_leaf = not (node.children or node.loans or node.pins)
    return is_leaf and len(node.pages) == 1 and 0 < len(node.tokens) < page_size


def _check_loans(tree: RadixTree, nodes: list[Node], owned: Mapping[int, Ids]) -> None:
    mine = {page for pages in owned.values() for page in pages.tolist()}
    for node in (*nodes, *tree.roots.values()):
        for loan in (loan for loans in node.loans.values() for loan in loans):
            assert loan.page in mine, f"I1: page {loan.page} is lent and nobody owns it"
            assert loan.node is node, "I5: a loan stands at another's place"
            assert node.pins, "I3: a page is lent, and its owner does not pin its path"


def pins_recounted(nodes: Iterable[Node]) -> Counter[Node]:
    """How often each node lies on a path from one of `nodes` to its root."""
    return Counter(step for node in nodes for step in path(node))
