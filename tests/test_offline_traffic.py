"""`Engine` under many callers: threads, event loops, crowds, and callers that leave early."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import espalier
from espalier.errors import ConfigError, EngineError, NotBuilt, RequestError
from espalier.offline import _NOT_BUILT
from espalier.scheduler.policy import POLICIES
from tests.bad_inputs import bad_inputs

SMALL = {"max_total_tokens": 4096, "device": "cpu"}
GREEDY = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}
LONG = {**GREEDY, "max_new_tokens": 480}
PROMPTS = [f"Question {number}: what is {number} times 7?" for number in range(24)]


@pytest.fixture(scope="module")
def engine(tiny_model: str) -> Iterator[espalier.Engine]:
    with espalier.Engine(model_path=tiny_model, **SMALL) as made:
        yield made


@pytest.fixture(scope="module")
def expected(engine: espalier.Engine) -> list[list[int]]:
    return [engine.generate(prompt, GREEDY)["output_ids"] for prompt in PROMPTS]


def assert_all_is_given_back(engine: espalier.Engine) -> None:
    """Nobody runs, waits or stands in the table; every page is free or cached, and none is lost.

    An abort is taken in with the step after it, so one more request is served first.
    """
    engine.generate("x", {"max_new_tokens": 1})
    said = engine.statistics()
    assert said["running"] == said["waiting"] == said["table"] == said["pinned"] == 0, said
    engine.flush_cache()
    engine.generate("x", {"max_new_tokens": 1})
    said = engine.statistics()
    assert said["free"] + said["fenced"] + said["cached"] == said["total"], said
    assert said["cached"] <= 1


def test_threads_get_their_own_answers(engine: espalier.Engine, expected: list[list[int]]) -> None:
    found: dict[int, list[Any]] = {}

    def ask(first: int) -> None:
        mine = PROMPTS[first::4]
        replies = engine.generate(mine, GREEDY)
        streamed = [list(engine.generate(one, GREEDY, stream=True))[-1] for one in mine]
        found[first] = [one["output_ids"] for one in (*replies, *streamed)]

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first in range(4):
        assert found[first] == expected[first::4] * 2
    assert_all_is_given_back(engine)


def test_tasks_of_an_event_loop_get_their_own_answers(
    engine: espalier.Engine, expected: list[list[int]]
) -> None:
    async def streamed(prompt: str) -> list[int]:
        news = await engine.async_generate(prompt, GREEDY, stream=True)
        return [one["output_ids"] async for one in news][-1]

    async def all_of_them() -> tuple[Any, Any]:
        whole = asyncio.gather(*(engine.async_generate(one, GREEDY) for one in PROMPTS))
        return await whole, await asyncio.gather(*map(streamed, PROMPTS))

    whole, streams = asyncio.run(all_of_them())
    assert [one["output_ids"] for one in whole] == streams == expected


def test_who_leaves_early_leaves_nothing_behind(engine: espalier.Engine) -> None:
    stream = engine.generate(PROMPTS[:8], LONG, stream=True)
    next(stream)
    stream.close()
    for _ in engine.generate("One", LONG, stream=True):
        break

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.async_generate(PROMPTS, LONG), 0.02)
        news = await engine.async_generate(PROMPTS[:3], LONG, stream=True)
        await anext(news)
        await news.aclose()

    asyncio.run(cancelled())
    assert_all_is_given_back(engine)


def test_an_abort_ends_all_of_that_name_and_no_other(engine: espalier.Engine) -> None:
    ends: dict[str, str] = {}
    stream = engine.generate(["a", "b", "c"], LONG, stream=True, rid=["mine", "mine", "other"])
    next(stream)
    assert engine.abort("mine") == 2
    for news in stream:
        info = news["meta_info"]
        if info["finish_reason"]:
            ends[f"{info['id']} {news['index']}"] = info["finish_reason"]["type"]
    assert ends == {"mine 0": "abort", "mine 1": "abort", "other 2": "length"}
    assert engine.abort("mine") == 0
    assert_all_is_given_back(engine)


def test_five_thousand_prompts_go_through_a_queue_of_sixty_four(tiny_model: str) -> None:
    prompts = [[1 + number % 400, number // 400] for number in range(5000)]
    with espalier.Engine(model_path=tiny_model, max_queued_requests=64, **SMALL) as engine:
        replies = engine.generate(
            input_ids=prompts, sampling_params={"max_new_tokens": 1, "temperature": 0}
        )
        assert len(replies) == 5000
        assert {one["meta_info"]["completion_tokens"] for one in replies} == {1}
        for number in (0, 1234, 4999):
            alone = engine.generate(
                input_ids=prompts[number], sampling_params={"max_new_tokens": 1, "temperature": 0}
            )
            assert alone["output_ids"] == replies[number]["output_ids"]
        assert_all_is_given_back(engine)


@pytest.mark.parametrize("policy", sorted(POLICIES.names()))
def test_no_policy_changes_what_anyone_is_told(
    policy: str, tiny_model: str, expected: list[list[int]]
) -> None:
    words = {**SMALL, "max_running_requests": 4}
    with espalier.Engine(model_path=tiny_model, schedule_policy=policy, **words) as engine:
        replies = engine.generate(PROMPTS, GREEDY, priority=[n % 3 for n in range(len(PROMPTS))])
        assert_all_is_given_back(engine)
    assert [one["output_ids"] for one in replies] == expected


def test_drafts_never_change_the_text_and_are_counted(tiny_model: str) -> None:
    prompts = ["The dog the dog the dog the dog the", "a, b, c, a, b, c, a, b, c, a, b,"]
    params = {**GREEDY, "max_new_tokens": 96}
    sampled = {"temperature": 0.3, "seed": 5, "max_new_tokens": 64, "ignore_eos": True}
    with espalier.Engine(model_path=tiny_model, **SMALL) as engine:
        without = [engine.generate(prompts, one) for one in (params, sampled)]
    words = {**SMALL, "speculative_algorithm": "NGRAM"}
    with espalier.Engine(model_path=tiny_model, **words) as engine:
        drafted = [engine.generate(prompts, one) for one in (params, sampled)]
        assert_all_is_given_back(engine)
    assert [[one["output_ids"] for one in replies] for replies in drafted] == [
        [one["output_ids"] for one in replies] for replies in without
    ]
    infos = [one["meta_info"] for replies in drafted for one in replies]
    steps = sum(info.get("spec_verify_ct", 0) for info in infos)
    assert steps > 0
    for info in infos:
        if "spec_verify_ct" in info:
            assert 0 <= info["spec_num_correct_drafts"] <= info["spec_num_proposed_drafts"]
            assert 1 <= info["spec_accept_length"] <= 1 + info["spec_num_proposed_drafts"]
    assert not any("spec_verify_ct" in one["meta_info"] for one in without[0])


def test_two_ranks_write_what_one_does(tiny_model: str, expected: list[list[int]]) -> None:
    with espalier.Engine(model_path=tiny_model, tp_size=2, **SMALL) as engine:
        replies = engine.generate(PROMPTS[:6], GREEDY)
        assert_all_is_given_back(engine)
    assert [one["output_ids"] for one in replies] == expected[:6]


@pytest.mark.parametrize("name", sorted(_NOT_BUILT))
def test_a_method_that_is_not_built_is_refused_with_a_way_out(
    engine: espalier.Engine, name: str
) -> None:
    with pytest.raises(NotBuilt, match=name) as refused:
        getattr(engine, name)
    assert refused.value.hint


def test_a_shutdown_ends_what_runs(tiny_model: str) -> None:
    engine = espalier.Engine(model_path=tiny_model, **SMALL)
    stream = engine.generate(PROMPTS, LONG, stream=True)
    next(stream)
    engine.shutdown()
    engine.shutdown()
    ended = {news["index"]: news["meta_info"]["finish_reason"] for news in stream}
    assert all(ended.values())
    with pytest.raises(EngineError, match="shut down"):
        engine.generate("x")
    with pytest.raises(EngineError, match="shut down"):
        asyncio.run(engine.async_generate("x"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"tp_size": 3}, "cannot be split"),
        ({"context_length": 513}, "513"),
        ({"schedule_policy": "psychic"}, "psychic"),
        ({"speculative_algorithm": "EAGLE"}, "EAGLE"),
        ({"max_total_tokens": 3, "page_size": 16}, "holds no page"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_before_it_is_loaded(
    tiny_model: str, words: dict[str, Any], why: str
) -> None:
    with pytest.raises((ConfigError, NotBuilt), match=why):
        espalier.Engine(model_path=tiny_model, **{**SMALL, **words})


SCRIPT = """
import asyncio
import espalier

async def main():
    engine = espalier.Engine(model_path={model!r}, **{small!r})
    print(len(engine.generate("a", {few!r})["output_ids"]))
    async for one in await engine.async_generate("b", {few!r}, stream=True):
        last = one
    print(len(last["output_ids"]))
    raise SystemExit(7)

asyncio.run(main())
"""


def test_a_script_in_an_event_loop_ends_by_itself(tiny_model: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(model=tiny_model, small=SMALL, few=GREEDY))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.split()) == (7, ["6", "6"]), done.stderr


def test_no_bad_input_changes_what_the_next_one_is_told(
    tiny_model: str, expected: list[list[int]]
) -> None:
    """Through the event loop's door, after each of them the same greedy tokens."""
    with espalier.Engine(model_path=tiny_model, **SMALL) as engine:

        async def each() -> None:
            for name, bad in bad_inputs(485, 512).items():
                with pytest.raises(RequestError) as refused:
                    await engine.async_generate(**bad.words)
                assert bad.names in refused.value.message, name
                canary = await engine.async_generate(PROMPTS[0], GREEDY)
                assert canary["output_ids"] == expected[0], name

        asyncio.run(each())
        assert_all_is_given_back(engine)
