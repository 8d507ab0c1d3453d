"""What the scheduler costs: CPU time of plan + commit and of apply, by how many run and wait.

    python benchmarks/micro/step.py

Steady decoding, every request one token a step, with 0 and 10,000 requests waiting. The same loop
with an empty function is timed beside it as the floor of the measuring itself.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from espalier.cache.prefix import PrefixCache
from espalier.protocol.arrays import ids
from espalier.protocol.messages import Generate, RequestId
from espalier.protocol.sampling import Sampling
from espalier.protocol.step import StepBatch, StepResult
from espalier.scheduler.plan import Limits
from espalier.scheduler.scheduler import Scheduler

STEPS = 400
PROMPT = 64
RNG = np.random.default_rng(0)


def scheduler(running: int, page_size: int, policy: str) -> Scheduler:
    pages = running * (PROMPT + STEPS + 100) // page_size + 2 * running + 64
    limits = Limits(
        max_step_tokens=max(8192, running + 1),
        chunk_tokens=8192,
        max_running=running,
        page_size=page_size,
        context_length=4096,
        vocabulary=32_000,
        capacity=pages * page_size,
        max_queued=100_000,
        max_queued_tokens=10**9,
    )
    cache = PrefixCache(pages, page_size)
    return Scheduler(limits, cache, time.perf_counter, policy=policy)


def request(number: int) -> Generate:
    prompt = ids(RNG.integers(0, 32_000, PROMPT))
    stop = Sampling(temperature=0.0, stop=(31_999,))
    return Generate(request=RequestId(number), prompt=prompt, max_tokens=STEPS + 64, sampling=stop)


def answer(batch: StepBatch) -> StepResult:
    sampled = int((batch.samples > 0).sum())
    ones = np.ones(sampled, np.int32)
    return StepResult(batch.number, ones, ones * 17, ones * 0)


def measure(running: int, waiting: int, *, page_size: int = 16, policy: str = "fcfs") -> str:
    engine = scheduler(running, page_size, policy)
    for number in range(running + waiting):
        engine.take(request(number + 1))
    while len(engine.state.slots.running) < running:
        batch = engine.next_batch()
        assert batch is not None
        engine.apply(answer(batch))
    planned, applied = [], []
    for _ in range(STEPS):
        start = time.process_time_ns()
        batch = engine.next_batch()
        middle = time.process_time_ns()
        assert batch is not None
        result = answer(batch)
        again = time.process_time_ns()
        engine.apply(result)
        engine.take_output()
        planned.append((middle - start) / 1e3)
        applied.append((time.process_time_ns() - again) / 1e3)
    plan, take = statistics.median(planned), statistics.median(applied)
    return (
        f"{policy:10} page {page_size:2}  running {running:5}  waiting {waiting:6}  "
        f"plan+commit {plan:7.1f} us  apply {take:7.1f} us  step {plan + take:7.1f} us"
    )


def main() -> None:
    floor = [-time.process_time_ns() + time.process_time_ns() for _ in range(STEPS)]
    print(f"floor of the clock: {statistics.median(floor) / 1e3:.1f} us")
    for running in (1, 32, 256, 1024):
        for waiting in (0, 10_000):
            print(measure(running, waiting))
    for policy in ("lpm", "dfs-weight", "random", "priority"):
        print(measure(256, 10_000, policy=policy))
    print(measure(256, 0, page_size=1))


if __name__ == "__main__":
    main()
