"""The prefix index against a naive one: the list of all that was ever inserted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.cache.prefix import Hold, PrefixCache
from espalier.protocol.arrays import ids
from tests.cache.world import naive_match

sizes = st.sampled_from([1, 2, 4, 16])
tokens = st.lists(st.integers(0, 1), min_size=1, max_size=40)
sequences = st.lists(tokens, max_size=12)


def insert(cache: PrefixCache, sequence: list[int], namespace: str = "") -> Hold:
    """As a request that computes everything by itself and ends; returns the hold it gave up."""
    size, whole = cache.page_size, len(sequence) // cache.page_size
    pages = cache.allocate(-(-len(sequence) // size))
    assert pages is not None
    root = cache.pin(cache.match(namespace, ids([]), 0))
    hold = cache.extend(root, ids(sequence[: whole * size]), pages[:whole], step=0).hold
    if whole < len(pages):
        cache.keep_tail(hold, ids(sequence[whole * size :]), int(pages[whole]))
    cache.release(hold)
    return hold


def filled(size: int, contents: list[list[int]]) -> PrefixCache:
    cache = PrefixCache(1 + 40 * 16, size)
    for sequence in contents:
        insert(cache, sequence)
        cache.check({})
    return cache


def shared(contents: list[list[int]], query: list[int]) -> int:
    """The longest beginning that `query` has in common with anything."""
    lengths = range(len(query), -1, -1)
    return next(n for n in lengths if not n or any(s[:n] == query[:n] for s in contents))


@settings(max_examples=250, deadline=None)
@given(sizes, sequences, tokens, st.integers(0, 40))
def test_a_match_is_the_longest_common_beginning_to_the_token(
    size: int, contents: list[list[int]], query: list[int], limit: int
) -> None:
    found = filled(size, contents).match("", ids(query), limit)
    assert found.length == shared(contents, query[:limit])
    assert found.whole % size == 0
    assert found.tail < size
    assert not found.awaited


@settings(max_examples=50, deadline=None)
@given(sizes, sequences)
def test_what_is_inserted_twice_is_kept_once(size: int, contents: list[list[int]]) -> None:
    once, twice = filled(size, contents), filled(size, contents + contents)
    assert once.statistics().cached == twice.statistics().cached
    wholes = {tuple(s[: n * size]) for s in contents for n in range(1, len(s) // size + 1)}
    tails = sum(len(n.tokens) < size for n in twice.tree.nodes())
    assert once.statistics().cached == len(wholes) + tails


@settings(max_examples=100, deadline=None)
@given(sizes, sequences, tokens, st.integers(0, 200))
def test_pinned_pages_outlive_eviction(
    size: int, contents: list[list[int]], query: list[int], evicted: int
) -> None:
    cache = filled(size, contents)
    match = cache.match("", ids(query), len(query))
    newly_pinned = cache.num_unpinned(match)
    available = cache.num_available
    hold = cache.pin(match)
    assert cache.num_available == available - newly_pinned
    pages = cache.pages(hold)
    dropped = cache.stock.evict(min(evicted, cache.stock.counts.unpinned))
    cache.allocator.free(dropped)
    cache.check({})
    assert not set(dropped.tolist()) & set(pages.tolist())
    assert cache.pages(hold).tolist() == pages.tolist()
    assert cache.match("", ids(query), len(query)).whole == match.whole


def test_tails_are_found_among_many_children_that_begin_alike() -> None:
    random = np.random.default_rng(0)
    prompts = random.integers(2, 9, (400, 24)).tolist()
    contents = [[1, *prompt] for prompt in prompts]
    cache = PrefixCache(2_000, 16)
    for sequence in contents:
        insert(cache, sequence)
    for prompt in random.integers(2, 9, (100, 24)).tolist():
        query = [1, *prompt]
        found = cache.match("", ids(query), len(query))
        assert found.length == shared(contents, query)
        assert (found.whole, found.tail, 0) == naive_match(cache, "", query)


def test_a_path_of_thousands_of_nodes_is_no_deeper_than_the_stack() -> None:
    cache = PrefixCache(4_000, 1)
    hold = cache.pin(cache.match("", ids([]), 0))
    for _ in range(3_000):
        page = cache.allocate(1)
        assert page is not None
        hold = cache.extend(hold, ids([0]), page, step=0).hold
    cache.release(hold)
    assert cache.match("", ids([0] * 3_000), 3_000).length == 3_000
    assert sum(1 for _ in cache.tree.nodes()) == 3_000
    cache.check({})
    cache.forget()
    assert cache.statistics().free == 3_999


def test_tenants_do_not_see_each_other() -> None:
    cache = PrefixCache(10, 2)
    insert(cache, [1, 2, 3], namespace="one")
    assert cache.match("one", ids([1, 2, 3]), 3).length == 3
    assert cache.match("two", ids([1, 2, 3]), 3).length == 0
    assert list(cache.tree.roots) == ["one"]


def test_a_longer_page_takes_the_place_of_a_tail() -> None:
    cache = PrefixCache(10, 4)
    insert(cache, [1, 2])
    insert(cache, [1, 2, 3])
    assert cache.statistics().cached == 1
    insert(cache, [1])
    assert cache.statistics().cached == 1
    insert(cache, [1, 2, 3, 4])
    assert cache.statistics().cached == 1
    insert(cache, [1, 5])
    assert cache.statistics().cached == 2
    cache.check({})


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 5])
def test_a_limit_caps_the_match(limit: int) -> None:
    cache = filled(4, [[1, 2, 3, 4, 5, 6]])
    assert cache.match("", ids([1, 2, 3, 4, 5, 6]), limit).length == limit
