"""A naive scheduler and worker around a prefix cache, where a key/value is a hash of all before it.

Steps are made, sent and landed in order, as the real ones are: copies first, then writes, then
every chunk reads all that it stands on. A page given away too early, a wrong tail, a prefix of
another tenant: each makes some chunk read a hash that is not its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from espalier.cache.check import pins_recounted
from espalier.cache.node import Loan, Match, path
from espalier.cache.prefix import Hold, PrefixCache
from espalier.protocol.arrays import Ids, ids


@dataclass(eq=False)
class Run:
    number: int
    namespace: str
    tokens: list[int]
    given: int  # tokens of the prompt
    hold: Hold
    table: list[int]
    shared: int
    matched: int
    computed: int
    done: int
    loan: Loan | None = None


@dataclass
class Step:
    number: int
    copies: list[tuple[int, int]] = field(default_factory=list)
    writes: list[tuple[int, int, int]] = field(default_factory=list)  # page, offset, hash
    reads: list[tuple[list[int], str, list[int]]] = field(default_factory=list)
    ends: list[tuple[Run, int]] = field(default_factory=list)


def hashes(namespace: str, tokens: list[int]) -> list[int]:
    found, seen = [], hash(namespace)
    for token in tokens:
        seen = hash((seen, token))
        found.append(seen)
    return found


class World:
    def __init__(self, cache: PrefixCache) -> None:
        self.cache = cache
        self.size = cache.page_size
        self.values = np.zeros((cache.num_pages, self.size), np.int64)
        self.runs: dict[int, Run] = {}
        self.flights: deque[Step] = deque()
        self.open = Step(1)
        self.count = 0
        self.hit_tails = self.failed = self.awaited = 0

    def join(self, namespace: str, prompt: list[int]) -> Run | None:
        match = self.match(namespace, prompt, len(prompt) - 1)
        hold = self.cache.pin(match)
        table = self.cache.pages(hold).tolist()
        assert len(table) * self.size == match.whole
        self.awaited += match.awaited > 0
        computed = match.whole
        if match.tail:
            own = self.cache.allocate(1)
            if own is not None:
                self.open.copies.append((match.tail_page, int(own[0])))
                table.append(int(own[0]))
                computed = match.length
                self.hit_tails += 1
        self.count += 1
        shared = match.whole // self.size
        run = Run(
            self.count, namespace, prompt, len(prompt), hold, table, shared, shared, computed, 0
        )
        run.done = computed
        self.runs[run.number] = run
        return run

    def match(self, namespace: str, tokens: list[int], limit: int) -> Match:
        """The cache's answer, which is the naive one, and changes nothing."""
        before = dump(self.cache)
        found = self.cache.match(namespace, ids(tokens), limit)
        assert dump(self.cache) == before
        expected = naive_match(self.cache, namespace, tokens[:limit])
        assert (found.whole, found.tail, found.awaited) == expected
        if found.tail:
            place = found.whole + np.arange(found.tail)
            wanted = np.array(hashes(namespace, tokens))[place]
            assert (self.values[found.tail_page, : found.tail] == wanted).all()
        return found

    def compute(self, run: Run, count: int) -> bool:
        """The next chunk of a request; past its prompt, it goes on with tokens of its own."""
        cache, size = self.cache, self.size
        start = run.computed
        if start >= len(run.tokens):
            run.tokens = [*run.tokens, (run.number + start) % 3]
            count = 1
        end = min(start + count, len(run.tokens))
        pages = cache.allocate(max(-(-end // size) - len(run.table), 0))
        if pages is None:
            return False
        run.table += pages.tolist()
        run.computed = end
        if end <= run.given:
            self._share(run, end)
        for position, value in enumerate(hashes(run.namespace, run.tokens[:end])):
            if position >= start:
                page = run.table[position // size]
                self.open.writes.append((page, position % size, value))
        self.open.reads.append((list(run.table), run.namespace, run.tokens[:end]))
        self.open.ends.append((run, end))
        return True

    def send(self) -> None:
        self.flights.append(self.open)
        self._set_fence()
        self.open = Step(self.open.number + 1)

    def land(self) -> None:
        step = self.flights.popleft()
        self._execute(step)
        for run, end in step.ends:
            run.done = max(run.done, end)
        self.cache.settle(step.number)
        self._set_fence()

    def fail(self) -> None:
        """The oldest step in flight fails, and all after it with it, the open one included."""
        failed = [*self.flights, self.open]
        affected = {run for step in failed for run, _ in step.ends}
        affected |= {run for run in self.runs.values() if self._copies_to(run)}
        affected |= {run for run in self.runs.values() if _stands_on(run, failed[0].number)}
        self.flights.clear()
        self.cache.rollback(failed[0].number)
        self.cache.settle(self.open.number)
        self._set_fence()
        self.open = Step(self.open.number + 1)
        for run in affected:
            if run.number in self.runs:
                self.poison(run)
        self.failed += 1

    def finish(self, run: Run) -> None:
        """It ends, or is aborted while in flight: what came back goes to the tree."""
        self._leave_open_step(run)
        cache, size, hold = self.cache, self.size, run.hold
        table = ids(run.table)
        if self._copies_to(run):  # what is copied into its page has not come back
            run.done = min(run.done, run.shared * size)
        whole = max(run.done // size, run.shared)
        if whole > run.shared:
            fresh = ids(run.tokens[run.shared * size : whole * size])
            hold = cache.extend(hold, fresh, table[run.shared : whole], step=0).hold
        used = whole
        if run.done > whole * size:
            cache.keep_tail(hold, ids(run.tokens[whole * size : run.done]), int(table[whole]))
            used += 1
        cache.free(table[used:])
        cache.release(hold)
        del self.runs[run.number]

    def poison(self, run: Run) -> None:
        """It ends in error: nothing that it computed is kept."""
        self._leave_open_step(run)
        self.cache.free(ids(run.table[run.shared :]))
        self.cache.discard(run.hold, run.matched)
        self.cache.release(run.hold)
        del self.runs[run.number]

    def rest(self) -> None:
        """Everybody ends and everything lands."""
        for run in list(self.runs.values()):
            self.finish(run)
        self.send()
        while self.flights:
            self.land()
        self.check()

    def owned(self) -> dict[int, Ids]:
        return {run.number: ids(run.table[run.shared :]) for run in self.runs.values()}

    def check(self) -> None:
        cache = self.cache
        cache.check(self.owned())
        holds = [run.hold for run in self.runs.values()] + cache.deferred_holds
        counted = pins_recounted(hold.node for hold in holds)
        for node in (*cache.tree.nodes(), *cache.tree.roots.values(), *cache.stale):
            assert node.pins == counted[node]
        for run in self.runs.values():
            assert cache.pages(run.hold).tolist() == run.table[: run.shared]

    def _share(self, run: Run, end: int) -> None:
        size, number = self.size, self.open.number
        whole = end // size
        if whole > run.shared:
            fresh = ids(run.tokens[run.shared * size : whole * size])
            own = ids(run.table[run.shared : whole])
            extended = self.cache.extend(run.hold, fresh, own, step=number)
            run.hold = extended.hold
            run.table[run.shared : whole] = extended.pages.tolist()
            run.shared = whole
        if end == run.given and end % size:
            tail = ids(run.tokens[whole * size : end])
            run.loan = self.cache.lend(run.hold, tail, run.table[whole], number)

    def _execute(self, step: Step) -> None:
        read = [self.values[source].copy() for source, _ in step.copies]
        for (_, target), page in zip(step.copies, read, strict=True):
            self.values[target] = page
        for page, offset, value in step.writes:
            self.values[page, offset] = value
        for table, namespace, tokens in step.reads:
            seen = self.values[table].reshape(-1)[: len(tokens)]
            assert seen.tolist() == hashes(namespace, tokens), "a chunk read what is not its own"

    def _copies_to(self, run: Run) -> bool:
        own = set(run.table[run.shared :])
        steps = (*self.flights, self.open)
        return any(target in own for step in steps for _, target in step.copies)

    def _leave_open_step(self, run: Run) -> None:
        """Nobody ends while a step that it is part of is being made: that is sent first."""
        computes = any(one is run for one, _ in self.open.ends)
        own = run.table[run.shared :]
        if computes or any(target in own for _, target in self.open.copies):
            self.send()
        if run.loan is not None:
            self.cache.withdraw(run.loan)
            run.loan = None

    def _set_fence(self) -> None:
        self.cache.fence = self.flights[-1].number if self.flights else 0


def _stands_on(run: Run, step: int) -> bool:
    """Whether its path has pages that this step or a later one was to fill."""
    return any(node.pending >= step for node in path(run.hold.node))


def dump(cache: PrefixCache) -> list[object]:
    """All that a look-up could change."""
    nodes = [
        (n.tokens.tolist(), n.pages.tolist(), n.pins, n.last_used, n.hits, n.stamp, len(n.keys))
        for n in cache.tree.nodes()
    ]
    return [nodes, sorted(cache.tree.roots), cache.version, cache.num_available]


def naive_match(cache: PrefixCache, namespace: str, query: list[int]) -> tuple[int, int, int]:
    """Whole tokens, ready tail and awaited tail, found by comparing with everything there is."""
    size, settled = cache.page_size, cache.tree.settled
    runs: list[tuple[list[int], int, int]] = []  # tokens, from where they may end a match, step
    roots = [root for root in cache.tree.roots.values() if root.namespace == namespace]
    for node in [*roots, *(n for n in cache.tree.nodes() if n.namespace == namespace)]:
        tokens = [token for step in [*path(node)][::-1] for token in step.tokens.tolist()]
        runs.append((tokens, node.start, node.pending))
        for loans in node.loans.values():
            for loan in loans:
                lent = np.frombuffer(loan.key, np.int32).tolist()
                runs.append((tokens + lent, node.end, loan.step))
    same = [(_common(tokens, query), start, step) for tokens, start, step in runs]
    whole = max((length - length % size for length, _, _ in same), default=0)
    reach = [(length - whole, step) for length, start, step in same if length > max(whole, start)]
    ready = max((tail for tail, step in reach if step <= settled), default=0)
    pending = max((tail for tail, step in reach if step > settled), default=0)
    return whole, ready, max(pending - ready, 0)


def _common(left: list[int], right: list[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
