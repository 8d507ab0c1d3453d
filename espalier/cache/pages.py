"""Which pages are free. Pages are numbers; what stands in them is the worker's affair.

Page 0 belongs to nobody: padding reads and writes it. A page that is freed while a step is in
flight may still be read by that step, so it waits behind a fence until the step has come back.
"""

from __future__ import annotations

import numpy as np

from espalier.protocol.arrays import NO_IDS, Ids


class PageAllocator:
    """The free pages of a pool, as a stack: what was freed last is taken first."""

    def __init__(self, num_pages: int) -> None:
        assert num_pages >= 1, "page 0 is part of every pool"
        self.num_pages = num_pages
        self.num_free = num_pages - 1
        self.num_fenced = 0
        self._settled = 0
        self._stack: Ids = np.arange(num_pages - 1, 0, -1, dtype=np.int32)  # [:num_free] counts
        self._in_use = np.zeros(num_pages, np.bool_)
        self._fenced: dict[int, list[Ids]] = {}  # by the step they wait for

    def allocate(self, count: int) -> Ids | None:
        """`count` pages for the caller to own; None, and nothing changed, if too few are free."""
        if count > self.num_free:
            return None
        rest = self.num_free - count
        pages: Ids = self._stack[rest : self.num_free][::-1].copy()
        self.num_free = rest
        self._in_use[pages] = True
        return pages

    def free(self, pages: Ids, after: int = 0) -> None:
        """Take pages back; they are given out again only when step `after` is settled."""
        if not len(pages):
            return
        if not self._in_use[pages].all():
            wrong = pages[~self._in_use[pages]]
            raise AssertionError(f"I2: page {wrong[0]} is freed, and nobody holds it")
        self._in_use[pages] = False
        if after > self._settled:
            self._fenced.setdefault(after, []).append(pages.copy())
            self.num_fenced += len(pages)
        else:
            self._push(pages)

    def settle(self, step: int) -> None:
        """Step `step` has come back, and all before it: pages that waited for them are free."""
        self._settled = max(self._settled, step)
        for after in sorted(waited for waited in self._fenced if waited <= step):
            for pages in self._fenced.pop(after):
                self.num_fenced -= len(pages)
                self._push(pages)

    def grow(self, count: int) -> None:
        """Add `count` pages at the end of the pool; they are taken after those free now."""
        more = np.arange(self.num_pages + count - 1, self.num_pages - 1, -1, dtype=np.int32)
        self._stack = np.concatenate((more, self._stack))
        self._in_use = np.concatenate((self._in_use, np.zeros(count, np.bool_)))
        self.num_pages += count
        self.num_free += count

    def shrink(self, count: int) -> int:
        """Take up to `count` free pages from the end of the pool; returns how many those were."""
        is_free = np.zeros(self.num_pages, np.bool_)
        is_free[self.free_pages()] = True
        last = is_free[::-1][:count]
        taken = int(last.argmin()) if not last.all() else len(last)
        self.num_pages -= taken
        self.num_free -= taken
        kept = self._stack[: self.num_free + taken]
        kept = kept[kept < self.num_pages]
        self._stack = np.concatenate((kept, np.zeros(self.num_pages - 1 - len(kept), np.int32)))
        self._in_use = self._in_use[: self.num_pages].copy()
        return taken

    def free_pages(self) -> Ids:
        """The free pages, next to be taken last; a view."""
        return self._stack[: self.num_free]

    def fenced_pages(self) -> Ids:
        """The pages that wait for a step."""
        waiting = [pages for group in self._fenced.values() for pages in group]
        return np.concatenate(waiting) if waiting else NO_IDS

    def _push(self, pages: Ids) -> None:
        top = self.num_free + len(pages)
        assert top < self.num_pages, "I2: more pages are free than there are"
        self._stack[self.num_free : top] = pages[::-1]
        self.num_free = top
