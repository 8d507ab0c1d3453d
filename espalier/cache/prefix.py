"""The prefix cache: the index of what is computed and the allocator of pages, as one.

A page is free, behind a fence, owned by one request, or cached by one node; never two of these.
Requests pin the path they stand on; what nobody pins may be evicted. Unpinning waits for the steps
in flight (`fence`), so a page that is evicted is read by nobody and can be used again at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from espalier.cache.check import check_cache
from espalier.cache.eviction import ORDERS
from espalier.cache.node import Loan, Match, Node, common, joined, of_one_step, path
from espalier.cache.pages import PageAllocator
from espalier.cache.radix import RadixTree, key_of
from espalier.cache.stock import Stock
from espalier.protocol.arrays import Ids, ids
from espalier.protocol.statistics import CacheStatistics

# Pages are evicted at least this share of the pool at a time: every eviction outdates all look-ups.
_EVICTED_AT_ONCE = 1 / 128


@dataclass(slots=True, eq=False)
class Hold:
    """A pinned path: everything from the root to `node` stays."""

    node: Node
    released_after: int = 0  # released already, and pinned until this step has come back


@dataclass(frozen=True, slots=True)
class Extended:
    """A hold that reaches further, and the pages to be used for what it was extended by."""

    hold: Hold
    pages: Ids


class PrefixCache:
    def __init__(
        self,
        num_pages: int,
        page_size: int,
        *,
        sharing: bool = True,
        eviction: str = "lru",
        max_cached_tokens: int | None = None,
    ) -> None:
        self.page_size = page_size
        self.sharing = sharing
        self.fence = 0  # the newest step in flight; 0: none
        self.num_pages = num_pages
        self.allocator = PageAllocator(num_pages)
        self.tree = RadixTree(page_size)
        self.stock = Stock(
            self.tree, ORDERS.get(eviction), sharing=sharing, max_tokens=max_cached_tokens
        )
        self.stale = self.stock.stale  # out of the tree, and still pinned
        self.deferred_holds: list[Hold] = []  # released behind a fence
        self._pending: list[tuple[int, Node | Loan]] = []
        # These two concern the tree alone. Without sharing it is empty, and every match too.
        self.match = self.tree.match
        self.withdraw = self.tree.withdraw

    @property
    def num_available(self) -> int:
        """Pages that `allocate` can give: free, or evictable."""
        return self.allocator.num_free + self.stock.counts.unpinned

    @property
    def version(self) -> int:
        """Grows whenever a look-up might be answered otherwise."""
        return self.tree.version

    def num_unpinned(self, match: Match) -> int:
        """Pages of a match that are evictable now, and would not be once it is pinned."""
        beyond = (match.node.end - match.whole) // self.page_size
        pages = sum(len(node.pages) for node in path(match.node) if not node.pins)
        return pages - (0 if match.node.pins else beyond)

    def pin(self, match: Match) -> Hold:
        """Keep a match's whole pages until `release`; its tail is to be copied before anything."""
        assert match.version == self.version, "look up again: the tree has changed"
        if match.whole:
            node = self.tree.split(match.node, match.whole - match.node.start)
        else:
            node = self.tree.root(match.namespace)
        self.stock.tick()
        for step in path(node):
            self.stock.pin(step)
            self.stock.touch(step)
        if match.tail_node is not None:
            self.stock.touch(match.tail_node)
        return Hold(node)

    def pages(self, hold: Hold) -> Ids:
        """All pages of a hold, from the root on."""
        return joined([node.pages for node in path(hold.node) if len(node.pages)][::-1])

    def release(self, hold: Hold) -> None:
        """Give up a hold. The steps in flight may still read its pages, or be filling them."""
        assert not hold.released_after, "I3: a hold is released twice"
        hold.released_after = max(self.fence, hold.node.pending)
        if hold.released_after > self.tree.settled:
            self.deferred_holds.append(hold)
        else:
            self.free(self.stock.unpin_path(hold.node))
            self.allocator.free(self.stock.evict_excess())

    def extend(
        self, hold: Hold, tokens: Ids, pages: Ids, *, step: int, priority: int = 0
    ) -> Extended:
        """The tree takes `pages` for the whole-page `tokens` that follow the hold's path.

        What it has of them already it keeps; then the caller's pages are freed, and the tree's are
        to be used. `step` fills them (0: they are filled). The hold given is used up.
        """
        size = self.page_size
        assert len(tokens) == len(pages) * size, "a tree's pages are whole"
        self.stock.tick()
        node, place = hold.node, 0
        used: list[Ids] = []
        while place < len(tokens):
            rest = tokens[place:]
            child = node.children.get(key_of(rest[:size]))
            if child is None:
                node = self.stock.grow(node, rest, pages[place // size :], step)
                node.priority = priority
                self._pending.append((step, node))
            else:
                same = common(child.tokens, rest)
                node = self.tree.split(child, same - same % size)
                self.stock.pin(node)
                self.stock.touch(node)
                node.priority = max(node.priority, priority)
                own = pages[place // size : place // size + len(node.pages)]
                # Given out again within this step, a page could be written twice over in it.
                self.allocator.free(own, after=max(self.fence, step))
            used.append(node.pages)
            place += len(node.tokens)
        self._settle_filled()
        self.allocator.free(self.stock.evict_excess())
        return Extended(Hold(node), joined(used))

    def keep_tail(self, hold: Hold, tokens: Ids, page: int) -> None:
        """The unfinished page of a request that ends: kept, unless what it holds is known."""
        assert 0 < len(tokens) < self.page_size, "a tail is a part of a page"
        parent, own = hold.node, ids([page])
        known = self.tree.has_beginning(parent, key_of(tokens))
        if parent.stale or not self.sharing or known:
            self.free(own)
            return
        tail = Node(parent.namespace, tokens.copy(), own, parent, parent.end + len(tokens))
        tail.priority = parent.priority
        self.stock.tick()
        self.free(self.stock.drop_tails(tail))
        self.stock.enter(tail)
        self.allocator.free(self.stock.evict_excess())

    def lend(self, hold: Hold, tokens: Ids, page: int, step: int) -> Loan:
        """Let others copy a running request's unfinished page once `step` has come back."""
        assert 0 < len(tokens) < self.page_size, "a tail is a part of a page"
        entered = self.sharing and not hold.node.stale
        loan = Loan(hold.node, key_of(tokens), page, step, is_entered=entered)
        if entered:
            self.tree.lend(loan)
            self._pending.append((step, loan))
        return loan

    def allocate(self, count: int) -> Ids | None:
        """`count` pages for the caller to own, evicting what must be; None if too few are left."""
        missing = count - self.allocator.num_free
        evictable = self.stock.counts.unpinned
        if missing > evictable:
            return None
        if missing > 0:
            least = int(self.num_pages * _EVICTED_AT_ONCE)
            self.allocator.free(self.stock.evict(min(max(missing, least), evictable)))
        return self.allocator.allocate(count)

    def free(self, pages: Ids) -> None:
        """Take back pages that a request owned; they are free when no step in flight is left."""
        self.allocator.free(pages, after=self.fence)

    def settle(self, step: int) -> None:
        """Step `step` has come back, and all before it."""
        self.tree.settled = max(self.tree.settled, step)
        self.allocator.settle(step)
        self._settle_filled()
        for hold in [one for one in self.deferred_holds if one.released_after <= step]:
            self.deferred_holds.remove(hold)
            self.free(self.stock.unpin_path(hold.node))
        self.allocator.free(self.stock.evict_excess())

    def rollback(self, step: int) -> None:
        """Step `step` failed, and all after it: what they were to fill leaves the tree."""
        failed = [one for after, one in self._pending if after >= step]
        self._pending = [one for one in self._pending if one[0] < step]
        for one in failed:
            match one:
                case Loan():
                    self.withdraw(one)
                case Node() if not one.stale:
                    self.free(self.stock.discard(of_one_step(one)[-1]))
                case Node():
                    pass

    def discard(self, hold: Hold, first_page: int = 0) -> None:
        """What a hold's path has from page `first_page` on leaves the tree, with all below it."""
        top: Node | None = None
        for node in path(hold.node):
            if node.parent is None or node.start < first_page * self.page_size:
                break
            top = node
        if top is not None and not top.stale:
            self.free(self.stock.discard(top))

    def flush(self) -> int:
        """Forget everything that nobody pins; returns how many pages that frees."""
        pages = self.stock.evict(self.stock.counts.unpinned)
        self.allocator.free(pages)
        return len(pages)

    def forget(self) -> None:
        """Forget everything, for new weights: what is pinned serves its requests, and no others."""
        for root in list(self.tree.roots.values()):
            self.free(self.stock.discard(root))

    def statistics(self) -> CacheStatistics:
        counts = self.stock.counts
        return CacheStatistics(
            total=self.num_pages - 1,
            free=self.allocator.num_free,
            fenced=self.allocator.num_fenced,
            cached=counts.cached,
            pinned=counts.cached - counts.unpinned,
            evicted=counts.evicted,
            page_size=self.page_size,
        )

    def check(self, owned: Mapping[int, Ids]) -> None:
        """Recount everything; AssertionError names the invariant (I1 to I5) that does not hold.

        `owned`: what each request holds besides its path. Holds are known only to who has them, so
        that pins are theirs is checked with `check.pins_recounted`.
        """
        check_cache(self.allocator, self.stock, owned)

    def _settle_filled(self) -> None:
        """What is filled by now can be copied, and stands in for shorter tails beside it."""
        settled = self.tree.settled
        filled = [one for after, one in self._pending if after <= settled]
        if not filled:
            return
        self._pending = [one for one in self._pending if one[0] > settled]
        self.tree.version += 1
        for one in filled:
            if isinstance(one, Node) and not one.stale:
                for part in of_one_step(one):
                    self.free(self.stock.drop_tails(part))
