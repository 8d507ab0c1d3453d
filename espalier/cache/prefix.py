"""The prefix cache: the index of what is computed and the allocator of pages, as one.

A page is free, behind a fence, owned by one request, or cached by one node; never two of these.
Requests pin the path they stand on; what nobody pins may be evicted. Unpinning waits for the steps
in flight (`fence`), so a page that is evicted is read by nobody and can be used again at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from espalier.cache.check import check_cache
from espalier.cache.eviction import ORDERS, Leaves
from espalier.cache.node import Loan, Match, Node, common, joined, path, root_of
from espalier.cache.pages import PageAllocator
from espalier.cache.radix import RadixTree, key_of
from espalier.protocol.arrays import Ids, ids
from espalier.protocol.statistics import CacheStatistics


@dataclass(slots=True, eq=False)
class Hold:
    """A pinned path: everything from the root to `node` stays."""

    node: Node


@dataclass(frozen=True, slots=True)
class Extended:
    """A hold that reaches further, and the pages to be used for what it was extended by."""

    hold: Hold
    pages: Ids


@dataclass(slots=True)
class Counts:
    """Pages and tokens in nodes, by whether somebody pins them."""

    cached: int = 0
    unpinned: int = 0
    unpinned_tokens: int = 0
    evicted: int = 0


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
        self.allocator = PageAllocator(num_pages)
        self.tree = RadixTree(page_size)
        self.leaves = Leaves(ORDERS.get(eviction))
        self.counts = Counts()
        self.stale: set[Node] = set()  # out of the tree, and still pinned
        self._max_cached_tokens = max_cached_tokens
        self._clock = 0
        self._deferred: list[tuple[int, Hold]] = []  # released behind a fence
        self._pending: list[tuple[int, Node | Loan]] = []

    @property
    def num_pages(self) -> int:
        return self.allocator.num_pages

    @property
    def num_available(self) -> int:
        """Pages that `allocate` can give: free, or evictable."""
        return self.allocator.num_free + self.counts.unpinned

    @property
    def version(self) -> int:
        return self.tree.version

    def match(self, namespace: str, tokens: Ids, limit: int) -> Match:
        if not self.sharing:
            return Match(namespace, root_of(namespace), 0, self.version)
        return self.tree.match(namespace, tokens, limit)

    def num_unpinned(self, match: Match) -> int:
        """Pages of a match that are evictable now, and would not be once it is pinned."""
        beyond = (match.node.end - match.whole) // self.page_size
        pages = sum(len(node.pages) for node in path(match.node) if not node.pins)
        return pages - (0 if match.node.pins else max(beyond, 0))

    def pin(self, match: Match) -> Hold:
        """Keep a match's whole pages until `release`."""
        if match.node.parent is None:
            node = self.tree.root(match.namespace)
        else:
            assert match.version == self.version, "look up again: the tree has changed"
            node = self._split(match.node, match.whole - match.node.start)
        self._clock += 1
        for step in path(node):
            self._pin(step)
            step.last_used = self._clock
            step.hits += 1
        return Hold(node)

    def pages(self, hold: Hold) -> Ids:
        """All pages of a hold, from the root on."""
        return joined([node.pages for node in path(hold.node)][::-1])

    def release(self, hold: Hold) -> None:
        if self.fence > self.tree.settled:
            self._deferred.append((self.fence, hold))
        else:
            self._unpin(hold)

    def extend(
        self, hold: Hold, tokens: Ids, pages: Ids, *, step: int, priority: int = 0
    ) -> Extended:
        """The tree takes `pages` for the whole-page `tokens` that follow the hold's path.

        What it has of them already it keeps; then the caller's pages are freed, and the tree's are
        to be used. `step` fills them (0: they are filled).
        """
        node, place, size = hold.node, 0, self.page_size
        used: list[Ids] = []
        while place < len(tokens):
            rest = tokens[place:]
            child = node.children.get(key_of(rest[:size]))
            if child is None:
                node = self._grow(node, rest, pages[place // size :], step, priority)
                used.append(node.pages)
                break
            same = common(child.tokens, rest)
            node = self._split(child, same - same % size)
            self._pin(node)
            used.append(node.pages)
            self.free(pages[place // size : place // size + len(node.pages)])
            place += len(node.tokens)
        result = Extended(Hold(node), joined(used))
        self._enforce_limit()
        return result

    def keep_tail(self, hold: Hold, tokens: Ids, page: int) -> None:
        """The unfinished page of a request that ends: kept, unless what it holds is known."""
        key = key_of(tokens)
        node = hold.node
        own = ids([page])
        if node.stale or not self.sharing or self.tree.has_beginning(node, key):
            self.free(own)
            return
        self._drop_tails(node, key)
        if key in node.children:
            self.free(own)
            return
        self._enter(Node(node.namespace, tokens.copy(), own, node, node.end + len(tokens)))
        self._enforce_limit()

    def lend(self, hold: Hold, tokens: Ids, page: int, step: int) -> Loan:
        """Let others copy a running request's unfinished page once `step` has come back."""
        loan = Loan(hold.node, key_of(tokens), page, step, is_entered=not hold.node.stale)
        if loan.is_entered:
            self.tree.lend(loan)
            self._pending.append((step, loan))
        return loan

    def withdraw(self, loan: Loan) -> None:
        if loan.is_entered:
            loan.is_entered = False
            self.tree.withdraw(loan)

    def allocate(self, count: int) -> Ids | None:
        """`count` pages for the caller to own, evicting what must be; None if too few are left."""
        missing = count - self.allocator.num_free
        if missing > self.counts.unpinned:
            return None
        if missing > 0:
            self._evict(missing)
        return self.allocator.allocate(count)

    def free(self, pages: Ids) -> None:
        self.allocator.free(pages, after=self.fence)

    def settle(self, step: int) -> None:
        """Step `step` has come back, and all before it."""
        self.tree.settled = max(self.tree.settled, step)
        self.allocator.settle(step)
        if self._pending:
            left = [one for one in self._pending if one[0] > step]
            self.tree.version += len(left) != len(self._pending)
            self._pending = left
        if self._deferred:
            due = [hold for after, hold in self._deferred if after <= step]
            self._deferred = [one for one in self._deferred if one[0] > step]
            for hold in due:
                self._unpin(hold)
            self._enforce_limit()

    def rollback(self, step: int) -> None:
        """Step `step` failed, and all after it: what they were to fill leaves the tree."""
        failed = [one for after, one in self._pending if after >= step]
        self._pending = [one for one in self._pending if one[0] < step]
        for one in failed:
            match one:
                case Loan():
                    self.withdraw(one)
                case Node() if not one.stale:
                    self._discard(one)
                case Node():
                    pass

    def discard(self, hold: Hold, first_page: int) -> None:
        """What a hold's path has from page `first_page` on leaves the tree, with all below it."""
        top: Node | None = None
        for node in path(hold.node):
            if node.parent is None or node.start < first_page * self.page_size:
                break
            top = node
        if top is not None and not top.stale:
            self._discard(top)

    def flush(self) -> int:
        """Forget everything that nobody pins; returns how many pages that frees."""
        before = self.allocator.num_free
        self._evict(self.counts.unpinned)
        return self.allocator.num_free - before

    def forget(self) -> None:
        """Forget everything, for new weights: what is pinned serves its requests, and no others."""
        for root in self.tree.roots.values():
            for node in list(root.children.values()):
                self._discard(node)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            total=self.num_pages - 1,
            free=self.allocator.num_free,
            fenced=self.allocator.num_fenced,
            cached=self.counts.cached,
            pinned=self.counts.cached - self.counts.unpinned,
            evicted=self.counts.evicted,
            page_size=self.page_size,
        )

    def check(self, owned: Mapping[int, Ids]) -> None:
        """Recount everything; AssertionError names the invariant (I1 to I5) that does not hold."""
        check_cache(self, owned)

    @property
    def deferred_holds(self) -> list[Hold]:
        return [hold for _, hold in self._deferred]

    def _split(self, node: Node, used: int) -> Node:
        upper = self.tree.split(node, used)
        if upper is not node and upper.pending > self.tree.settled:
            self._pending.append((upper.pending, upper))
        return upper

    def _pin(self, node: Node) -> None:
        if not node.pins and not node.stale:
            self.counts.unpinned -= len(node.pages)
            self.counts.unpinned_tokens -= len(node.tokens)
        node.pins += 1

    def _unpin(self, hold: Hold) -> None:
        for node in path(hold.node):
            assert node.pins > 0, "I3: unpinned more often than pinned"
            node.pins -= 1
            if node.pins:
                continue
            if node.stale:
                self._free_stale(node)
                continue
            self.counts.unpinned += len(node.pages)
            self.counts.unpinned_tokens += len(node.tokens)
            if node.is_evictable_leaf:
                self.leaves.push(node)
        self._enforce_limit()

    def _grow(self, parent: Node, tokens: Ids, pages: Ids, step: int, priority: int) -> Node:
        """A new node under `parent`, pinned once for the hold that it is for."""
        node = Node(
            parent.namespace,
            tokens.copy(),
            pages.copy(),
            parent,
            parent.end + len(tokens),
            pending=step,
            priority=priority,
            pins=1,
        )
        if parent.stale:
            node.stale = True
            self.stale.add(node)
            self.counts.cached += len(node.pages)
            return node
        self._drop_tails(parent, self.tree.key(node))
        self._enter(node)
        if step > self.tree.settled:
            self._pending.append((step, node))
        return node

    def _enter(self, node: Node) -> None:
        self._clock += 1
        node.created = node.last_used = self._clock
        self.tree.attach(node)
        self.counts.cached += len(node.pages)
        if not node.pins:
            self.counts.unpinned += len(node.pages)
            self.counts.unpinned_tokens += len(node.tokens)
            self.leaves.push(node)

    def _drop_tails(self, parent: Node, key: bytes) -> None:
        for tail in self.tree.tails_before(parent, key):
            assert not tail.pins, "I3: a tail is copied from, never pinned"
            self._remove(tail)

    def _evict(self, pages: int) -> None:
        """Drop at least so many pages' worth of unpinned leaves, in order."""
        while pages > 0:
            leaf = self.leaves.pop()
            assert leaf is not None, "I4: evictable pages are counted, and no leaf is evictable"
            if len(leaf.pages) > pages:
                self._trim(leaf, pages)
                return
            pages -= len(leaf.pages)
            self._remove(leaf)

    def _trim(self, leaf: Node, pages: int) -> None:
        """Drop the last pages of a leaf; its beginning stays."""
        dropped, tokens = leaf.pages[-pages:], pages * self.page_size
        leaf.tokens, leaf.pages = leaf.tokens[:-tokens], leaf.pages[:-pages]
        leaf.end -= tokens
        self._uncount(pages, tokens)
        self.allocator.free(dropped)
        self.tree.version += 1
        self.leaves.push(leaf)

    def _remove(self, leaf: Node) -> None:
        """Take an unpinned leaf out; nobody reads its pages, so they are free at once."""
        self.tree.detach(leaf)
        parent = leaf.parent
        leaf.stale = True
        self._uncount(len(leaf.pages), len(leaf.tokens))
        self.allocator.free(leaf.pages)
        if parent is not None and parent.is_evictable_leaf:
            self.leaves.push(parent)

    def _uncount(self, pages: int, tokens: int) -> None:
        self.counts.cached -= pages
        self.counts.unpinned -= pages
        self.counts.unpinned_tokens -= tokens
        self.counts.evicted += pages

    def _discard(self, top: Node) -> None:
        """A subtree leaves the tree. Its pinned nodes keep their pages until they are released."""
        self.tree.detach(top)
        parent = top.parent
        stack = [top]
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            for loans in list(node.loans.values()):
                for loan in list(loans):
                    self.withdraw(loan)
            node.stale = True
            if node.pins:
                self.stale.add(node)
            else:
                self._uncount(len(node.pages), len(node.tokens))
                self.free(node.pages)
            node.children, node.keys = {}, []
        if parent is not None and parent.is_evictable_leaf:
            self.leaves.push(parent)

    def _free_stale(self, node: Node) -> None:
        self.stale.remove(node)
        self.counts.cached -= len(node.pages)
        self.free(node.pages)

    def _enforce_limit(self) -> None:
        limit = self._max_cached_tokens
        if limit is None:
            return
        while self.counts.unpinned_tokens > limit:
            over = self.counts.unpinned_tokens - limit
            self._evict(min(-(-over // self.page_size), self.counts.unpinned))
