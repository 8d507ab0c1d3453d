"""A recount of the whole cache: the invariants I1 to I5, each named in what is raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from espalier.cache.node import Node, path
from espalier.cache.radix import RadixTree
from espalier.protocol.arrays import Ids

if TYPE_CHECKING:
    from espalier.cache.prefix import PrefixCache


def check_cache(cache: PrefixCache, owned: Mapping[int, Ids]) -> None:
    nodes = list(cache.tree.nodes())
    _check_pages(cache, nodes, owned)
    _check_pins(cache, nodes)
    _check_tree(cache.tree, nodes)
    _check_loans(cache, owned)


def _check_pages(cache: PrefixCache, nodes: list[Node], owned: Mapping[int, Ids]) -> None:
    allocator = cache.allocator
    free = allocator.free_pages()
    assert len(np.unique(free)) == len(free), "I2: a page is twice in the free list"
    places: Counter[int] = Counter()
    for pages in (free, allocator.fenced_pages(), *owned.values()):
        places.update(pages.tolist())
    cached = 0
    for node in (*nodes, *cache.stale):
        places.update(node.pages.tolist())
        cached += len(node.pages)
    for page in range(1, cache.num_pages):
        count = places[page]
        assert count == 1, f"I1: page {page} is in {count} places"
    assert len(places) == cache.num_pages - 1, "I1: a page is held that does not exist"
    assert cached == cache.counts.cached, "I1: the cached pages are miscounted"
    assert len(free) == allocator.num_free, "I2: the free pages are miscounted"


def _check_pins(cache: PrefixCache, nodes: list[Node]) -> None:
    for node in (*nodes, *cache.stale):
        assert node.pins >= 0, "I3: fewer than no pins"
        parent = node.parent
        assert parent is not None, "I5: a root is among the nodes"
        assert parent.pins >= node.pins, "I4: a child has more pins"
    unpinned = [node for node in nodes if not node.pins]
    pages = sum(len(node.pages) for node in unpinned)
    tokens = sum(len(node.tokens) for node in unpinned)
    assert pages == cache.counts.unpinned, "I4: the evictable pages are miscounted"
    assert tokens == cache.counts.unpinned_tokens, "I4: the evictable tokens are miscounted"
    leaves = {node for node in nodes if node.is_evictable_leaf}
    assert leaves == cache.leaves.standing(), "I4: the order of eviction has other leaves"


def _check_tree(tree: RadixTree, nodes: list[Node]) -> None:
    size = tree.page_size
    for node in nodes:
        parent = node.parent
        assert parent is not None, "I5: a root is among the nodes"
        assert not node.stale, "I5: a stale node is in the tree"
        assert parent.children.get(tree.key(node)) is node, "I5: a child under a wrong page"
        assert node.end == parent.end + len(node.tokens), "I5: an edge has a wrong length"
        whole = len(node.tokens) == len(node.pages) * size
        tail = len(node.pages) == 1 and 0 < len(node.tokens) < size and not node.children
        assert whole or tail, "I5: a node's tokens do not fill its pages"
    for node in (*nodes, *tree.roots.values()):
        keys = sorted({*node.children, *node.loans})
        assert keys == node.keys, "I5: the sorted keys are not those of the children"


def _check_loans(cache: PrefixCache, owned: Mapping[int, Ids]) -> None:
    mine = {page for pages in owned.values() for page in pages.tolist()}
    for node in (*cache.tree.nodes(), *cache.tree.roots.values()):
        for loans in node.loans.values():
            for loan in loans:
                assert loan.page in mine, f"I1: page {loan.page} is lent and nobody owns it"


def pins_recounted(nodes: list[Node]) -> Counter[Node]:
    """How often each node lies on a path from one of `nodes` to its root."""
    return Counter(step for node in nodes for step in path(node))
