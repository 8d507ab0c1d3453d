"""Random traffic from a seed: the same seed is the same world, step for step."""

from __future__ import annotations

import random
from dataclasses import dataclass

from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.speculative.ngram import Ngram
from tests.fakes import VOCABULARY
from tests.system.world import Shape, World

PAGES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Traffic:
    seed: int
    actions: int = 60


def shape_of(rng: random.Random) -> Shape:
    """An engine small enough that everything runs short."""
    page = rng.choice(PAGES)
    running = rng.choice((1, 2, 4, 7))
    return Shape(
        num_pages=1 + max(rng.choice((48, 64, 120)) // page, 8),
        page_size=page,
        max_running=running,
        max_step_tokens=rng.choice((8, 16, 64)),
        chunk_tokens=rng.choice((3, 8, 64)),
        max_queued=rng.choice((4, 64)),
        look_ahead=rng.choice((0, 0, 1)),
        policy=rng.choice(("fcfs", "lpm", "dfs-weight", "random", "priority", "lof")),
        sharing=rng.random() < 0.85,
        eviction=rng.choice(("lru", "lfu", "fifo", "priority")),
        max_cached_tokens=rng.choice((None, None, 0, 20)),
        max_drafts=rng.choice((0, 0, 3)),
        queue_timeout_s=rng.choice((None, None, 0.2)),
    )


def world_of(seed: int) -> tuple[World, random.Random]:
    rng = random.Random(seed)
    shape = shape_of(rng)
    return World(shape, Ngram(shortest=1) if shape.max_drafts else None), rng


def prompt_of(rng: random.Random, longest: int) -> list[int]:
    """From a small trie, so that prompts share prefixes and part inside pages."""
    trunk = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23] * 3
    kept = trunk[: rng.choice((0, 1, 3, 5, 8, 13, 21, 34, 50))]
    rest = [rng.randrange(3) for _ in range(rng.randrange(0, 9))]
    return (kept + rest)[:longest] or [rng.randrange(VOCABULARY)]


def sampling_of(rng: random.Random) -> Sampling:
    return Sampling(
        temperature=rng.choice((0.0, 1.0)),
        seed=rng.randrange(5),
        sample=rng.randrange(2),
        stop=rng.choice(((), (7,), (7, 8, 9, 10, 11))),
        min_tokens=rng.choice((0, 0, 3)),
    )


def submit(world: World, rng: random.Random) -> None:
    room = (world.shape.num_pages - 1) * world.shape.page_size
    prompt = prompt_of(rng, room - 4)
    most = max(1, min(rng.choice((1, 2, 5, 12, 30)), room - len(prompt)))
    logprobs = None
    if rng.random() < 0.2:
        first = rng.choice((-1, 0, 2, len(prompt) - 1))
        logprobs = LogprobsWanted(top=rng.choice((0, 2)), listed=(3,), prompt_from=first)
    world.submit(
        prompt,
        most,
        sampling_of(rng),
        priority=rng.choice((0, 0, 0, 5)),
        namespace=rng.choice(("", "", "salt")),
        logprobs=logprobs,
        sent=rng.choice((0, 0, 0, 2)),
    )


def act(world: World, rng: random.Random) -> None:
    """One thing that may happen to an engine."""
    draw = rng.random()
    if draw < 0.30:
        for _ in range(rng.choice((1, 1, 1, 4))):
            submit(world, rng)
    elif draw < 0.38 and world.live:
        world.abort(rng.choice(world.live))
    elif draw < 0.40:
        world.abort(10**6)
    elif draw < 0.42:
        world.flush()
    elif draw < 0.44:
        world.executor.faults.steps.add(world.scheduler.state.number + 1)
        world.executor.faults.out_of_memory = rng.random() < 0.5
    elif draw < 0.46 and world.scheduler.state.slots.running.size:
        slot = int(rng.choice(world.scheduler.state.slots.running.tolist()))
        world.executor.faults.rows.add((world.scheduler.state.number + 1, slot))
    else:
        for _ in range(rng.choice((1, 2, 5))):
            world.step()


def drive(traffic: Traffic) -> World:
    """Safety while things happen, then liveness: faults stop, and everyone must end."""
    world, rng = world_of(traffic.seed)
    for _ in range(traffic.actions):
        act(world, rng)
    world.executor.faults.steps.clear()
    world.executor.faults.rows.clear()
    world.run()
    world.at_rest()
    return world
