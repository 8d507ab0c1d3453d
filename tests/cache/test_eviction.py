"""Which leaf goes first, under every order, and what is never evicted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.cache.eviction import ORDERS
from espalier.cache.prefix import Hold, PrefixCache
from espalier.errors import UnknownName
from espalier.protocol.arrays import ids


def insert(cache: PrefixCache, sequence: list[int], priority: int = 0) -> None:
    pages = cache.allocate(len(sequence) // cache.page_size)
    assert pages is not None
    hold = cache.pin(cache.match("", ids([]), 0))
    extended = cache.extend(hold, ids(sequence), pages, step=0, priority=priority)
    cache.release(extended.hold)


def use(cache: PrefixCache, sequence: list[int]) -> None:
    cache.release(cache.pin(cache.match("", ids(sequence), len(sequence))))


def cached(cache: PrefixCache) -> set[int]:
    """The first tokens of what is cached."""
    return {int(node.tokens[0]) for node in cache.tree.nodes() if node.end == len(node.tokens)}


# 1 is inserted first and used last; 2 is used most; 3 has priority; 4 is inserted last.
GOES_FIRST = {"lru": 3, "fifo": 1, "filo": 4, "mru": 1, "lfu": 3, "slru": 3, "priority": 2}


@pytest.mark.parametrize("order", ORDERS.names())
def test_each_order_chooses_its_own_victim(order: str) -> None:
    cache = PrefixCache(9, 2, eviction=order)
    for token in (1, 2, 3, 4):
        insert(cache, [token, 0, token, 0], priority=int(token == 3))
    for token in (2, 2, 2, 4, 1, 4, 1):
        use(cache, [token, 0, token, 0])
    assert cache.allocate(2) is not None
    assert {1, 2, 3, 4} - cached(cache) == {GOES_FIRST[order]}


def test_an_unknown_order_is_named() -> None:
    with pytest.raises(UnknownName, match="eviction order"):
        PrefixCache(4, 1, eviction="lur")


def test_only_as_many_pages_go_as_are_needed_and_from_the_end() -> None:
    cache = PrefixCache(9, 2)
    insert(cache, list(range(16)))
    own = cache.allocate(3)
    assert own is not None
    assert cache.match("", ids(range(16)), 16).length == 10
    cache.check({1: own})


def test_copying_from_a_tail_is_using_it() -> None:
    cache = PrefixCache(3, 4)
    for token in (1, 2):
        page = cache.allocate(1)
        assert page is not None
        hold = cache.pin(cache.match("", ids([]), 0))
        cache.keep_tail(hold, ids([token, 0]), int(page[0]))
        cache.release(hold)
    use(cache, [1, 0])
    assert cache.allocate(1) is not None
    assert cached(cache) == {1}


def test_what_a_step_is_filling_is_not_evicted_though_its_request_is_gone() -> None:
    cache = PrefixCache(4, 2)
    pages = cache.allocate(2)
    assert pages is not None
    hold = cache.pin(cache.match("", ids([]), 0))
    hold = cache.extend(hold, ids([1, 2, 3, 4]), pages, step=1).hold
    cache.release(hold)
    assert cache.num_available == 1
    assert cache.allocate(2) is None
    cache.settle(1)
    assert cache.num_available == 3


def test_what_a_step_in_flight_reads_is_not_evicted_though_its_request_is_gone() -> None:
    cache = PrefixCache(3, 2)
    insert(cache, [1, 2, 3, 4])
    hold = cache.pin(cache.match("", ids([1, 2, 3, 4]), 4))
    cache.fence = 7
    cache.release(hold)
    assert cache.allocate(1) is None
    cache.settle(6)
    assert cache.allocate(1) is None
    cache.settle(7)
    assert cache.allocate(1) is not None


def test_releasing_twice_is_a_bug() -> None:
    cache = PrefixCache(3, 2)
    insert(cache, [1, 2])
    hold = cache.pin(cache.match("", ids([1, 2]), 2))
    cache.release(hold)
    with pytest.raises(AssertionError, match="I3"):
        cache.release(Hold(hold.node))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ORDERS.names()),
    st.sampled_from([1, 4]),
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=30),
    st.integers(0, 20),
)
def test_no_more_than_the_limit_is_kept_unpinned(
    order: str, size: int, contents: list[list[int]], limit: int
) -> None:
    cache = PrefixCache(60, size, eviction=order, max_cached_tokens=limit)
    for sequence in contents:
        insert(cache, [token for token in sequence for _ in range(size)])
        assert cache.stock.counts.unpinned_tokens <= limit
        cache.check({})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ORDERS.names()),
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=30),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
)
def test_every_page_comes_free_once(
    order: str, contents: list[list[int]], wanted: list[int]
) -> None:
    cache = PrefixCache(400, 1, eviction=order)
    for sequence in contents:
        insert(cache, sequence)
    gone: list[int] = []
    for count in wanted:
        pages = cache.stock.evict(min(count, cache.stock.counts.unpinned))
        assert len(pages) == min(count, len(pages) + cache.stock.counts.unpinned)
        gone += pages.tolist()
        cache.allocator.free(pages)
        cache.check({})
    gone += [page for node in cache.tree.nodes() for page in node.pages.tolist()]
    assert len(gone) == len(set(gone))
    cache.flush()
    assert cache.statistics().free == 399
