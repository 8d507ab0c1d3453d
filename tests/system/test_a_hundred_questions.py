"""A hundred questions behind one system prompt: nothing is computed twice, to the token."""

from __future__ import annotations

import random

import pytest

from espalier.protocol.sampling import Sampling
from tests.fakes import VOCABULARY
from tests.system.world import Shape, World

QUESTIONS = 100
GREEDY = Sampling(temperature=0.0)


def prompts(system_length: int) -> list[list[int]]:
    """One system prompt, and questions of random tokens behind it."""
    rng = random.Random(1)
    system = [rng.randrange(VOCABULARY) for _ in range(system_length)]
    made = []
    for _ in range(QUESTIONS):
        question = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(5, 30))]
        made.append(system + question)
    return made


def least(all_prompts: list[list[int]], shared: int) -> int:
    """The shared part once, and each question's own tokens."""
    return shared + sum(len(prompt) - shared for prompt in all_prompts)


def least_of_all(all_prompts: list[list[int]]) -> int:
    """Every distinct beginning once; but a prompt's last token always gives its first logits."""
    beginnings = {
        tuple(prompt[:end]) for prompt in all_prompts for end in range(1, len(prompt) + 1)
    }
    last_again = sum(
        any(other is not prompt and other[: len(prompt)] == prompt for other in all_prompts)
        for prompt in all_prompts
    )
    return len(beginnings) + last_again


@pytest.mark.parametrize("page_size", [1, 8, 16])
@pytest.mark.parametrize("system_length", [300, 403])
@pytest.mark.parametrize("policy", ["fcfs", "lpm", "random"])
def test_all_at_once_the_system_prompt_is_computed_once(
    page_size: int, system_length: int, policy: str
) -> None:
    world = world_of(page_size, policy)
    asked = prompts(system_length)
    for prompt in asked:
        world.submit(prompt, 4, GREEDY)
    world.run()
    assert world.executor.computed - outputs(world) <= least(asked, system_length)
    assert world.scheduler.state.totals.prompt_tokens <= least(asked, system_length)
    if page_size == 1:
        assert world.scheduler.state.totals.prompt_tokens == least_of_all(asked)


@pytest.mark.parametrize("page_size", [1, 8, 16])
def test_one_after_another_every_common_beginning_is_computed_once(page_size: int) -> None:
    world = world_of(page_size, "fcfs")
    asked = prompts(403)
    for prompt in asked:
        world.submit(prompt, 1, GREEDY)
        world.run()
    assert world.scheduler.state.totals.prompt_tokens == least_of_all(asked)


def outputs(world: World) -> int:
    """Tokens computed that were generated: all but each request's last."""
    return sum(len(one.output) - 1 for one in world.requests.values())


def world_of(page_size: int, policy: str) -> World:
    return World(
        Shape(
            num_pages=12_000 // page_size,
            page_size=page_size,
            max_running=128,
            max_step_tokens=256,
            chunk_tokens=128,
            max_queued=200,
            policy=policy,
        )
    )
