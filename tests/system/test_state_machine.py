"""The scheduler as hypothesis drives it: any order of events, shrunk to the shortest that fails.

Every rule ends in a world whose invariants were checked, and whose tokens were compared with each
request's oracle; at the end faults stop, and everyone must come to an end.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.speculative.ngram import Ngram
from tests.fakes import VOCABULARY
from tests.system.world import Shape, World

tokens = st.integers(0, 2)
TRUNK = list(range(10, 40))
# A small trie: a trunk that prompts follow for a while, and a few ways to leave it.
prompts = st.builds(
    lambda kept, rest: (TRUNK[:kept] + rest) or [1],
    st.sampled_from([0, 1, 4, 7, 16, 30]),
    st.lists(tokens, max_size=6),
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    sample=st.integers(0, 1),
    stop=st.sampled_from([(), (7,), (7, 8, 9, 10, 11, 12)]),
    min_tokens=st.sampled_from([0, 2]),
)
shapes = st.builds(
    Shape,
    num_pages=st.sampled_from([24, 40]),
    page_size=st.sampled_from([2, 4]),
    max_running=st.integers(1, 5),
    max_step_tokens=st.sampled_from([8, 32]),
    chunk_tokens=st.sampled_from([3, 32]),
    max_queued=st.sampled_from([3, 30]),
    look_ahead=st.integers(0, 1),
    policy=st.sampled_from(["fcfs", "lpm", "dfs-weight", "random", "priority"]),
    sharing=st.booleans(),
    max_drafts=st.sampled_from([0, 2]),
    queue_timeout_s=st.sampled_from([None, 1.0]),
)


class Engine(RuleBasedStateMachine):
    requests: Bundle[int] = Bundle("requests")

    @initialize(shape=shapes)
    def start(self, shape: Shape) -> None:
        self.world = World(shape, Ngram(shortest=1) if shape.max_drafts else None)

    @rule(
        target=requests,
        prompt=prompts,
        most=st.sampled_from([1, 3, 10]),
        sampling=samplings,
        priority=st.sampled_from([0, 0, 3]),
        namespace=st.sampled_from(["", "salt"]),
        scored=st.sampled_from([None, None, -1, 0, 3]),
    )
    def submit(
        self,
        prompt: list[int],
        most: int,
        sampling: Sampling,
        priority: int,
        namespace: str,
        scored: int | None,
    ) -> int:
        wanted = None if scored is None else LogprobsWanted(top=1, prompt_from=scored)
        return self.world.submit(
            prompt, most, sampling, priority=priority, namespace=namespace, logprobs=wanted
        )

    @rule()
    def step(self) -> None:
        self.world.step()

    @rule(steps=st.integers(2, 8))
    def step_many(self, steps: int) -> None:
        for _ in range(steps):
            self.world.step()

    @rule(number=requests)
    def abort(self, number: int) -> None:
        """Running, waiting or ended long ago."""
        self.world.abort(number)

    @rule()
    def abort_nobody(self) -> None:
        self.world.abort(10**9)

    @rule(seconds=st.sampled_from([0.5, 5.0, 3600.0]))
    def advance_the_clock(self, seconds: float) -> None:
        self.world.clock.now += seconds

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule(pages=st.integers(1, 20))
    def take_pages_and_give_them_back(self, pages: int) -> None:
        """Pressure from outside: what can be evicted for it is."""
        taken = self.world.cache.allocate(min(pages, self.world.cache.num_available))
        assert taken is not None
        self.world.cache.free(taken)
        self.world.check()

    @rule(again=st.booleans())
    def the_next_step_fails(self, again: bool) -> None:
        faults = self.world.executor.faults
        faults.steps.add(self.world.scheduler.state.number + 1)
        faults.out_of_memory = again

    @rule(place=st.integers(0, 4))
    def a_row_of_the_next_step_is_no_number(self, place: int) -> None:
        rows = self.world.scheduler.state.slots.running
        if len(rows):
            slot = int(rows[place % len(rows)])
            number = self.world.scheduler.state.number + 1
            self.world.executor.faults.rows.add((number, slot))

    @rule()
    def drain(self) -> None:
        self.world.executor.faults.steps.clear()
        self.world.executor.faults.rows.clear()
        self.world.run()
        self.world.at_rest()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.drain()


Engine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAnyOrderOfEvents = Engine.TestCase


def test_the_vocabulary_of_prompts_is_that_of_the_executor() -> None:
    assert max(TRUNK) < VOCABULARY
