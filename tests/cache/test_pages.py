"""The allocator against sets of free, fenced and used pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.cache.pages import PageAllocator
from espalier.protocol.arrays import ids

acts = st.lists(
    st.tuples(st.sampled_from(["allocate", "free", "settle", "grow", "shrink"]), st.integers(0, 9)),
    max_size=40,
)


class Naive:
    """What the allocator should do, in sets."""

    def __init__(self, num_pages: int) -> None:
        self.free = set(range(1, num_pages))
        self.used: list[int] = []
        self.fenced: dict[int, int] = {}  # page: step
        self.settled = 0
        self.end = num_pages

    def settle(self, step: int) -> None:
        self.settled = max(self.settled, step)
        due = {page for page, after in self.fenced.items() if after <= step}
        self.free |= due
        self.fenced = {page: after for page, after in self.fenced.items() if page not in due}

    def shrink(self, count: int) -> int:
        taken = 0
        while taken < count and self.end - 1 in self.free:
            self.end -= 1
            self.free.remove(self.end)
            taken += 1
        return taken


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), acts)
def test_it_does_what_sets_would_do(num_pages: int, wanted: list[tuple[str, int]]) -> None:
    pages, naive = PageAllocator(num_pages), Naive(num_pages)
    for act, count in wanted:
        _act(pages, naive, act, count)
        assert set(pages.free_pages().tolist()) == naive.free
        assert len(pages.free_pages()) == pages.num_free == len(naive.free)
        assert sorted(pages.fenced_pages().tolist()) == sorted(naive.fenced)
        assert pages.num_fenced == len(naive.fenced)
        assert pages.num_pages == naive.end


def _act(pages: PageAllocator, naive: Naive, act: str, count: int) -> None:
    match act:
        case "allocate":
            given = pages.allocate(count)
            assert (given is None) == (count > len(naive.free))
            taken = [] if given is None else given.tolist()
            assert set(taken) <= naive.free
            naive.free -= set(taken)
            naive.used += taken
        case "free":
            gone, naive.used = naive.used[:count], naive.used[count:]
            after = naive.settled + count % 3
            pages.free(ids(gone), after)
            if after > naive.settled:
                naive.fenced |= dict.fromkeys(gone, after)
            else:
                naive.free |= set(gone)
        case "settle":
            pages.settle(naive.settled + count % 3)
            naive.settle(naive.settled + count % 3)
        case "grow":
            pages.grow(count)
            naive.free |= set(range(naive.end, naive.end + count))
            naive.end += count
        case "shrink":
            assert pages.shrink(count) == naive.shrink(count)


def test_page_0_is_never_given_out() -> None:
    given = PageAllocator(5).allocate(4)
    assert given is not None
    assert given.tolist() == [1, 2, 3, 4]
    assert PageAllocator(1).allocate(1) is None


def test_pages_come_back_in_the_order_in_which_they_were_held() -> None:
    pages = PageAllocator(9)
    first = pages.allocate(3)
    assert first is not None
    pages.free(first)
    again = pages.allocate(3)
    assert again is not None
    assert again.tolist() == first.tolist()


@pytest.mark.parametrize("page", [0, 2])
def test_freeing_what_nobody_holds_is_a_bug(page: int) -> None:
    pages = PageAllocator(4)
    pages.allocate(1)
    with pytest.raises(AssertionError, match=f"I2: page {page} is freed"):
        pages.free(ids([page]))
