"""Holds, loans, failing steps and new weights; and that the recount notices each broken invariant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from espalier.cache.node import Node
from espalier.cache.prefix import Hold, PrefixCache
from espalier.protocol.arrays import Ids, ids

SIZE = 4


def hold_root(cache: PrefixCache) -> Hold:
    return cache.pin(cache.match("", ids([]), 0))


def pages_of(cache: PrefixCache, count: int) -> Ids:
    pages = cache.allocate(count)
    assert pages is not None
    return pages


def insert(cache: PrefixCache, sequence: list[int], step: int = 0) -> Hold:
    """A path that is filled by `step`; the hold is the caller's to release."""
    pages = pages_of(cache, len(sequence) // SIZE)
    return cache.extend(hold_root(cache), ids(sequence), pages, step=step).hold


def length(cache: PrefixCache, query: list[int]) -> int:
    return cache.match("", ids(query), len(query)).length


def test_two_that_compute_the_same_in_one_step_end_on_the_same_pages() -> None:
    cache = PrefixCache(9, SIZE)
    sequence = list(range(8))
    leader = insert(cache, sequence, step=1)
    own = pages_of(cache, 2)
    follower = cache.extend(hold_root(cache), ids(sequence), own, step=1)
    assert follower.pages.tolist() == cache.pages(leader).tolist()
    assert cache.statistics().fenced == 2  # nothing may write to them twice in this step
    cache.settle(1)
    assert cache.statistics().free == 6
    cache.check({})


def test_whole_pages_may_be_stood_on_while_they_are_filled_and_tails_not_yet_copied() -> None:
    cache = PrefixCache(9, SIZE)
    insert(cache, list(range(8)), step=3)
    match = cache.match("", ids([0, 1, 2, 3, 4, 5, 9]), 7)
    assert (match.whole, match.tail, match.awaited) == (4, 0, 2)
    cache.settle(3)
    match = cache.match("", ids([0, 1, 2, 3, 4, 5, 9]), 7)
    assert (match.whole, match.tail, match.awaited) == (4, 2, 0)


def test_a_ready_tail_is_not_given_up_for_one_that_is_being_filled() -> None:
    cache = PrefixCache(9, SIZE)
    root = hold_root(cache)
    cache.keep_tail(root, ids([1, 2]), int(pages_of(cache, 1)[0]))
    insert(cache, [1, 2, 3, 4], step=5)
    match = cache.match("", ids([1, 2, 3, 9]), 4)
    assert (match.tail, match.awaited) == (2, 1)
    cache.settle(5)
    match = cache.match("", ids([1, 2, 3, 9]), 4)
    assert (match.tail, match.awaited) == (3, 0)
    assert cache.statistics().cached == 1  # the tail is superfluous now


def test_a_lent_page_is_found_until_it_is_withdrawn() -> None:
    cache = PrefixCache(9, SIZE)
    hold, own = insert(cache, [1, 2, 3, 4]), pages_of(cache, 1)
    loan = cache.lend(hold, ids([5, 6]), int(own[0]), 2)
    other = cache.lend(hold, ids([5, 6]), int(own[0]), 9)
    query = [1, 2, 3, 4, 5, 6, 7]
    match = cache.match("", ids(query), 7)
    assert (match.length, match.awaited) == (4, 2)
    cache.settle(2)
    match = cache.match("", ids(query), 7)
    assert (match.length, match.tail_page) == (6, own[0])
    cache.check({1: own})
    cache.withdraw(loan)
    assert length(cache, query) == 4
    cache.withdraw(other)
    assert cache.match("", ids(query), 7).awaited == 0
    cache.check({1: own})


def test_a_failed_step_takes_with_it_what_stands_on_it() -> None:
    cache = PrefixCache(20, SIZE)
    settled = insert(cache, [1, 2, 3, 4])
    pages = pages_of(cache, 1)
    failing = cache.extend(settled, ids([5, 6, 7, 8]), pages, step=4).hold
    later = cache.extend(failing, ids([1, 1, 1, 1]), pages_of(cache, 1), step=5).hold
    cache.lend(later, ids([2]), int(pages[0]), 5)
    cache.rollback(4)
    assert length(cache, [1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 1, 1]) == 4
    assert cache.statistics().cached == 3  # those who hold them keep them
    cache.settle(5)
    cache.release(later)
    assert cache.statistics().cached == 1
    cache.check({})


def test_a_split_node_fails_whole() -> None:
    cache = PrefixCache(20, SIZE)
    first = insert(cache, list(range(12)), step=2)
    second = cache.pin(cache.match("", ids(range(4)), 4))
    cache.rollback(2)
    assert length(cache, list(range(12))) == 0
    cache.settle(2)
    cache.release(second)
    cache.release(first)
    assert cache.statistics().free == 19
    assert not cache.tree.roots


def test_what_extends_a_stale_path_is_found_by_nobody_and_freed_at_last() -> None:
    cache = PrefixCache(20, SIZE)
    hold = insert(cache, [1, 2, 3, 4])
    cache.discard(hold)
    hold = cache.extend(hold, ids([5, 6, 7, 8]), pages_of(cache, 1), step=0).hold
    cache.keep_tail(hold, ids([9]), int(pages_of(cache, 1)[0]))
    assert not cache.lend(hold, ids([9]), 1, 1).is_entered
    assert length(cache, [1, 2, 3, 4]) == 0
    assert cache.statistics().pinned == 2
    cache.check({})
    cache.release(hold)
    assert cache.statistics().free == 19


def test_discarding_leaves_what_others_had_computed_before() -> None:
    cache = PrefixCache(20, SIZE)
    insert(cache, [1, 2, 3, 4])
    hold = cache.pin(cache.match("", ids([1, 2, 3, 4]), 4))
    hold = cache.extend(hold, ids([5, 6, 7, 8]), pages_of(cache, 1), step=0).hold
    cache.discard(hold, 1)
    assert length(cache, [1, 2, 3, 4, 5, 6, 7, 8]) == 4


def test_flushing_keeps_what_is_pinned() -> None:
    cache = PrefixCache(20, SIZE)
    cache.release(insert(cache, list(range(8))))
    insert(cache, [7, 7, 7, 7])
    assert cache.flush() == 2
    assert length(cache, list(range(8))) == 0
    assert length(cache, [7, 7, 7, 7]) == 4


def test_new_weights_forget_even_what_is_pinned_or_lent_or_rooted() -> None:
    cache = PrefixCache(20, SIZE)
    hold, root, own = insert(cache, list(range(8))), hold_root(cache), pages_of(cache, 1)
    cache.lend(root, ids([3]), int(own[0]), 0)
    cache.forget()
    assert length(cache, list(range(8))) == length(cache, [3]) == 0
    old = cache.extend(root, ids([1, 1, 1, 1]), pages_of(cache, 1), step=0).hold
    assert length(cache, [1, 1, 1, 1]) == 0
    assert len(cache.pages(hold)) == 2
    cache.check({1: own})
    cache.release(hold)
    cache.release(old)
    cache.free(own)
    assert cache.statistics().free == 19


def test_without_sharing_nothing_is_matched_and_nothing_kept() -> None:
    cache = PrefixCache(20, SIZE, sharing=False)
    hold = insert(cache, list(range(8)))
    assert length(cache, list(range(8))) == 0
    assert len(cache.pages(hold)) == 2
    cache.keep_tail(hold, ids([1]), int(pages_of(cache, 1)[0]))
    assert not cache.lend(hold, ids([9]), 1, 1).is_entered
    cache.check({})
    cache.release(hold)
    assert cache.statistics().free == 19


def test_pages_freed_behind_a_fence_wait_for_the_step() -> None:
    cache = PrefixCache(4, SIZE)
    pages = pages_of(cache, 3)
    cache.fence = 2
    cache.free(pages)
    assert cache.allocate(1) is None
    cache.settle(1)
    assert cache.allocate(1) is None
    cache.settle(2)
    assert cache.allocate(3) is not None


def test_more_than_there_is_is_refused_and_evicts_nothing() -> None:
    cache = PrefixCache(4, SIZE)
    cache.release(insert(cache, list(range(8))))
    assert cache.allocate(4) is None
    assert length(cache, list(range(8))) == 8


def test_the_version_grows_only_when_answers_may_change() -> None:
    cache = PrefixCache(9, SIZE)
    hold = insert(cache, [1, 2, 3, 4])
    version = cache.version
    pages = pages_of(cache, 1)
    cache.settle(8)
    length(cache, [1, 2])
    cache.pin(cache.match("", ids([1, 2, 3, 4]), 4))
    assert cache.version == version
    cache.keep_tail(hold, ids([5]), int(pages[0]))
    assert cache.version > version


def test_a_match_with_an_older_tree_is_not_pinned() -> None:
    cache = PrefixCache(9, SIZE)
    match = cache.match("", ids([1, 2, 3, 4]), 4)
    insert(cache, [1, 2, 3, 4])
    with pytest.raises(AssertionError, match="look up again"):
        cache.pin(match)


def _free_twice(cache: PrefixCache) -> None:
    cache.allocator._stack[0] = cache.allocator._stack[1]


def _free_and_cached(cache: PrefixCache) -> None:
    cache.allocator._stack[0] = _leaf(cache).pages[0]


def _lose_a_page(cache: PrefixCache) -> None:
    cache.allocator.num_free -= 1


def _cache_a_page_twice(cache: PrefixCache) -> None:
    leaf = _leaf(cache)
    leaf.pages = np.concatenate((leaf.pages[:-1], leaf.pages[:1]))


def _cache_page_0(cache: PrefixCache) -> None:
    _leaf(cache).pages[-1] = 0


def _lend_what_nobody_owns(cache: PrefixCache) -> None:
    cache.lend(hold_root(cache), ids([7]), 15, 0)


def _unpin_too_often(cache: PrefixCache) -> None:
    _leaf(cache).pins = -1


def _pin_a_child_alone(cache: PrefixCache) -> None:
    _leaf(cache).pins += 1


def _miscount_the_evictable(cache: PrefixCache) -> None:
    cache.stock.counts.unpinned += 1


def _forget_a_leaf(cache: PrefixCache) -> None:
    cache.stock.leaves.pop()


def _fill_the_evictable(cache: PrefixCache) -> None:
    _leaf(cache).pending = 99


def _exchange_first_tokens(cache: PrefixCache) -> None:
    _leaf(cache).tokens[0] += 1


def _lose_a_token(cache: PrefixCache) -> None:
    leaf = _leaf(cache)
    leaf.tokens = leaf.tokens[:-1]
    cache.stock.counts.unpinned_tokens -= 1


def _lose_a_sorted_key(cache: PrefixCache) -> None:
    cache.tree.roots[""].keys.pop()


def _move_to_another_tenant(cache: PrefixCache) -> None:
    _leaf(cache).namespace = "another"


def _leaf(cache: PrefixCache) -> Node:
    """The longer of the two leaves."""
    return max(cache.tree.nodes(), key=lambda node: node.end)


BROKEN: list[tuple[str, Callable[[PrefixCache], None]]] = [
    ("I1: page .* is held by nobody", _lose_a_page),
    ("I1: page .* is held by the cache and the cache", _cache_a_page_twice),
    ("I1: page 0", _cache_page_0),
    ("I1: page 15 is lent", _lend_what_nobody_owns),
    ("I2: page .* is free twice", _free_twice),
    ("I2: page .* is free, and somebody holds it", _free_and_cached),
    ("I3: -1 pins", _unpin_too_often),
    ("I4: a child has more pins", _pin_a_child_alone),
    ("I4: the evictable pages", _miscount_the_evictable),
    ("I4: the order of eviction", _forget_a_leaf),
    ("I4: what a step is filling", _fill_the_evictable),
    ("I5: a child under a wrong page", _exchange_first_tokens),
    ("I5: an edge has a wrong length", _lose_a_token),
    ("I5: the sorted keys", _lose_a_sorted_key),
    ("I13: ", _move_to_another_tenant),
]


@pytest.mark.parametrize(("message", "breaking"), BROKEN, ids=[one.__name__ for _, one in BROKEN])
def test_the_recount_notices(message: str, breaking: Callable[[PrefixCache], None]) -> None:
    cache = PrefixCache(20, SIZE)
    cache.release(insert(cache, list(range(8))))
    cache.release(insert(cache, [9, 9, 9, 9]))
    cache.check({})
    breaking(cache)
    with pytest.raises(AssertionError, match=message):
        cache.check({})


def test_the_recount_notices_a_page_of_two_requests() -> None:
    cache = PrefixCache(20, SIZE)
    own = pages_of(cache, 2)
    cache.check({1: own[:1], 2: own[1:]})
    with pytest.raises(AssertionError, match="I1: page 2 is held by request 1 and request 2"):
        cache.check({1: own, 2: own[1:]})
