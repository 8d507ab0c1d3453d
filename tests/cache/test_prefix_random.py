"""Random traffic over a small pool: every look-up is the naive one, every read finds its own."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from espalier.cache.prefix import PrefixCache
from tests.cache.world import Run, World

# Two tokens and two tenants, so that prompts share beginnings and part anywhere.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
namespaces = st.sampled_from(["a", "b"])


class Traffic(RuleBasedStateMachine):
    @initialize(
        size=st.sampled_from([1, 2, 4, 16]),
        pages=st.integers(8, 40),
        eviction=st.sampled_from(["lru", "lfu", "mru"]),
        cap=st.sampled_from([None, None, 0, 7]),
    )
    def begin(self, size: int, pages: int, eviction: str, cap: int | None) -> None:
        cache = PrefixCache(pages, size, eviction=eviction, max_cached_tokens=cap)
        self.world = World(cache)
        self.cap = cap

    @rule(namespace=namespaces, prompt=prompts, count=st.integers(1, 9))
    def join(self, namespace: str, prompt: list[int], count: int) -> None:
        run = self.world.join(namespace, prompt)
        self.world.compute(run, count)

    @precondition(lambda self: self.world.runs)
    @rule(which=st.integers(0, 9), count=st.integers(1, 9))
    def go_on(self, which: int, count: int) -> None:
        self.world.compute(self._one(which), count)

    @precondition(lambda self: len(self.world.flights) < 3)
    @rule()
    def send(self) -> None:
        self.world.send()

    @precondition(lambda self: self.world.flights)
    @rule()
    def land(self) -> None:
        self.world.land()

    @precondition(lambda self: self.world.flights)
    @rule()
    def fail(self) -> None:
        self.world.fail()

    @precondition(lambda self: self.world.runs)
    @rule(which=st.integers(0, 9))
    def finish(self, which: int) -> None:
        self.world.finish(self._one(which))

    @precondition(lambda self: self.world.runs)
    @rule(which=st.integers(0, 9))
    def poison(self, which: int) -> None:
        self.world.poison(self._one(which))

    @rule(namespace=namespaces, prompt=prompts)
    def look_up(self, namespace: str, prompt: list[int]) -> None:
        self.world.match(namespace, prompt, len(prompt))

    @rule()
    def flush(self) -> None:
        self.world.cache.flush()

    @rule()
    def forget(self) -> None:
        self.world.cache.forget()
        assert not self.world.cache.tree.roots

    @invariant()
    def holds_what_it_must(self) -> None:
        self.world.check()
        if self.cap is not None:
            assert self.world.cache.stock.counts.unpinned_tokens <= self.cap

    def teardown(self) -> None:
        self.world.rest()
        cache = self.world.cache
        cache.flush()
        assert cache.allocator.num_free == cache.num_pages - 1
        assert not cache.tree.roots

    def _one(self, which: int) -> Run:
        runs = list(self.world.runs.values())
        return runs[which % len(runs)]


Traffic.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTraffic = Traffic.TestCase


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_long_traffic_comes_to_rest_with_no_page_lost(size: int) -> None:
    random = Random(size)
    world = World(PrefixCache(48, size))
    for _ in range(700):
        runs = list(world.runs.values())
        act = random.random()
        if act < 0.2 and len(runs) < 6:
            prompt = [random.randint(0, 1) for _ in range(random.randint(1, 5 * size))]
            world.compute(world.join(random.choice("ab"), prompt), random.randint(1, 2 * size))
        elif act < 0.6 and runs:
            world.compute(random.choice(runs), random.randint(1, 2 * size))
        elif act < 0.85:
            world.send()
            while len(world.flights) > 1:
                world.land()
        elif act < 0.97 and runs:
            world.finish(random.choice(runs))
        elif world.flights and act > 0.99:
            world.fail()
        world.check()
    world.rest()
    statistics = world.cache.statistics()
    assert statistics.free + statistics.cached == statistics.total
    assert statistics.evicted > 0
    assert world.failed > 0
    assert size == 1 or (world.hit_tails > 0 and world.awaited > 0)
