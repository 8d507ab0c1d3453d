"""Requests out, entries back: feeding, aborting, streaming, and an engine that dies."""

from __future__ import annotations

import asyncio
import signal
import threading
from itertools import pairwise
from typing import Any

import pytest

from espalier.errors import EngineError
from espalier.front.client import Room
from espalier.front.table import Watch
from espalier.protocol.messages import Abort, Failure, Generate, RequestId
from espalier.tokenizer.hf import HfTokenizer
from tests.fakes_engine import Desk, FakeEngine, hashed, running

FEW = {"max_new_tokens": 4, "temperature": 0}


def forever(message: Generate, output: list[int]) -> int:
    """For requests that only an abort ends before their time."""
    del message, output
    return 70


def test_five_thousand_prompts_go_through_a_queue_of_eight(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(burst=4, running=64, queued=8)
    prompts = [[1 + number % 400, number // 400] for number in range(5000)]
    with running(Desk(engine, tokenizer, room=Room(8, 10_000))) as desk:
        replies = desk.generate(input_ids=prompts, params=FEW)
        asked = desk.asked(input_ids=prompts, params=FEW)
    assert len(replies) == 5000
    assert engine.refusals == 0
    assert all(len(reply["output_ids"]) == 4 for reply in replies)
    for number in (0, 4999):
        message = asked.prepared[number].message(RequestId(1), 0)
        output: list[int] = []
        for token in replies[number]["output_ids"]:
            assert token == hashed(message, output)
            output.append(token)


def test_who_finds_the_queue_full_is_sent_again(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(running=2, queued=2)
    with running(Desk(engine, tokenizer, room=Room(10, 10_000))) as desk:
        replies = desk.generate(input_ids=[[5 + one] for one in range(40)], params=FEW)
    assert engine.refusals > 0
    assert [reply["meta_info"]["finish_reason"]["type"] for reply in replies] == ["length"] * 40


def test_no_more_prompt_tokens_wait_in_the_engine_than_there_is_room_for(
    tokenizer: HfTokenizer,
) -> None:
    engine = FakeEngine(running=1, queued=100)
    desk = Desk(engine, tokenizer, room=Room(100, 25))
    asked = desk.asked(input_ids=[[5] * 10 for _ in range(9)], params=FEW)
    desk.client.send(asked.prepared, Watch(lambda _: None))
    engine.receive()
    assert len(engine.seen) == 2
    engine.step()  # one runs, so there is room for one more
    engine.receive()
    assert len(engine.seen) == 3


def test_samples_come_in_a_row_for_each_prompt(tokenizer: HfTokenizer) -> None:
    with running(Desk(FakeEngine(), tokenizer)) as desk:
        params = [{"n": 2, "max_new_tokens": 3, "seed": 1}, {"max_new_tokens": 2, "seed": 1}]
        replies = desk.generate(input_ids=[[5], [6]], params=params)
        one = desk.generate(input_ids=[5], params=params[0])
    assert [len(reply["output_ids"]) for reply in replies] == [3, 3, 2]
    assert replies[0]["output_ids"] != replies[1]["output_ids"]
    assert [reply["output_ids"] for reply in one] == [r["output_ids"] for r in replies[:2]]


def test_a_stream_is_cumulative_and_ends_as_the_whole_does(tokenizer: HfTokenizer) -> None:
    with running(Desk(FakeEngine(), tokenizer)) as desk:
        words = {"params": {"max_new_tokens": 9, "seed": 3, "n": 2}}
        whole = desk.generate("The quick", **words)
        last: dict[int, dict[str, Any]] = {}
        for said in desk.stream("The quick", **words):
            index = said.pop("index")
            before = last.get(index, {"output_ids": [], "text": ""})
            assert said["output_ids"][: len(before["output_ids"])] == before["output_ids"]
            assert said["text"].startswith(before["text"])
            last[index] = said
    assert [last[index]["output_ids"] for index in (0, 1)] == [one["output_ids"] for one in whole]
    assert [last[index]["text"] for index in (0, 1)] == [one["text"] for one in whole]


def test_a_stream_may_come_in_larger_pieces(tokenizer: HfTokenizer) -> None:
    with running(Desk(FakeEngine(), tokenizer)) as desk:
        params = {"max_new_tokens": 8, "stream_interval": 4, "ignore_eos": True}
        lengths = [len(one["output_ids"]) for one in desk.stream("a", params)]
    assert lengths[-1] == 8
    assert all(later - earlier >= 4 for earlier, later in pairwise(lengths))


def test_a_stream_that_is_let_go_ends_its_request(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(forever)
    with running(Desk(engine, tokenizer, context_length=10**6)) as desk:
        stream = desk.stream("a", {"max_new_tokens": 900_000})
        next(stream)
        stream.close()
        assert desk.generate("b", {"max_new_tokens": 1})["output_ids"] == [70]
    assert sum(isinstance(one, Abort) for one in engine.seen) == 1


def test_an_abort_is_exact(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(forever, running=1)
    desk = Desk(engine, tokenizer, context_length=10**6)
    ends: list[Any] = []
    asked = desk.asked(["a", "b", "c"], {"max_new_tokens": 900_000}, rid=["job-1", "job-12", None])
    one, two, three = desk.client.send(asked.prepared, Watch(ends.append))
    for name in ("", "job", "job-", "job-1*", "JOB-1", "job-123"):
        assert desk.client.table.named(name) == []
    assert desk.client.table.named("job-1") == [one]
    assert desk.client.table.named(f"request-{three.id}") == [three]
    engine.receive()
    engine.step()
    desk.client.abort([one, two])
    desk.client.abort([one, two])
    engine.receive()
    engine.step()
    assert ends == [one, two]
    assert [entry.reason for entry in (one, two, three)] == ["abort", "abort", None]


def test_what_was_never_sent_is_aborted_here(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(queued=1)
    desk = Desk(engine, tokenizer, room=Room(1, 10))
    ends: list[Any] = []
    entries = desk.client.send(desk.asked(["a", "b", "c"]).prepared, Watch(ends.append))
    desk.client.abort(entries[1:])
    assert ends == entries[1:]
    engine.receive()
    assert [one.request for one in engine.seen if isinstance(one, Generate)] == [entries[0].id]


def test_an_abort_that_meets_a_refusal_is_an_abort(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(running=1, queued=1)
    desk = Desk(engine, tokenizer, room=Room(10, 100))
    entries = desk.client.send(desk.asked(["a", "b", "c"]).prepared, Watch(lambda _: None))
    desk.client.abort(entries[2:])  # the engine refuses it before it hears that
    engine.receive()
    engine.step()
    assert entries[2].reason == "abort"
    assert entries[1].reason is None
    engine.receive()
    assert (
        sum(isinstance(one, Generate) and one.request == entries[2].id for one in engine.seen) == 1
    )


def test_higher_priority_is_sent_first(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(running=1)
    desk = Desk(engine, tokenizer, room=Room(1, 100))
    asked = desk.asked(["a", "b", "c", "d"], FEW, priority=[0, 0, 5, 0])
    entries = desk.client.send(asked.prepared, Watch(lambda _: None))
    while not all(entry.is_over for entry in entries):
        engine.receive()
        engine.step()
    order = [one.request for one in engine.seen if isinstance(one, Generate)]
    assert order == [entries[place].id for place in (2, 0, 1, 3)]


def test_an_interrupt_takes_its_requests_along(tokenizer: HfTokenizer) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupting(message: Generate, output: list[int]) -> int:
        if len(output) == 3 and len(message.prompt) == 1:
            signal.pthread_kill(main, signal.SIGINT)
        return 70

    engine = FakeEngine(interrupting)
    with running(Desk(engine, tokenizer, context_length=10**7)) as desk:
        with pytest.raises(KeyboardInterrupt):
            desk.generate(input_ids=[70], params={"max_new_tokens": 9_000_000})
        assert desk.generate(input_ids=[70, 71], params={"max_new_tokens": 1})
    assert sum(isinstance(one, Abort) for one in engine.seen) == 1


def test_an_event_loop_may_wait_and_stream_at_once(tokenizer: HfTokenizer) -> None:
    async def streamed(desk: Desk, prompt: str) -> str:
        text = ""
        async for one in desk.caller.async_stream(desk.asked(prompt, FEW)):
            assert one["text"].startswith(text)
            text = one["text"]
        return text

    async def both(desk: Desk) -> tuple[list[str], list[Any]]:
        prompts = ["one", "two", "three", "four", "five"]
        waits = [desk.caller.async_wait(desk.asked(prompt, FEW)) for prompt in prompts]
        streams = [streamed(desk, prompt) for prompt in prompts]
        return await asyncio.gather(*streams), await asyncio.gather(*waits)

    with running(Desk(FakeEngine(), tokenizer)) as desk:
        texts, replies = asyncio.run(both(desk))
    assert texts == [reply["text"] for reply in replies]


def test_a_cancelled_task_ends_its_request(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine(forever)

    async def cancelled(desk: Desk) -> None:
        asked = desk.asked("a", {"max_new_tokens": 900_000})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(desk.caller.async_wait(asked), 0.01)
        stream = desk.caller.async_stream(asked)
        await anext(stream)
        await stream.aclose()

    with running(Desk(engine, tokenizer, context_length=10**6)) as desk:
        asyncio.run(cancelled(desk))
        desk.generate("b", {"max_new_tokens": 1})
    assert sum(isinstance(one, Abort) for one in engine.seen) == 2


def test_when_the_engine_dies_nobody_is_left_waiting(tokenizer: HfTokenizer) -> None:
    desk = Desk(FakeEngine(), tokenizer, room=Room(1, 100))
    failed: list[str] = []

    def wait(prompt: str) -> None:
        try:
            desk.generate(prompt)
        except EngineError as error:
            failed.append(error.message)

    threads = [threading.Thread(target=wait, args=(prompt,)) for prompt in "abc"]
    for thread in threads:
        thread.start()
    while len(desk.client.table) < 3:
        desk.engine.receive()
    desk.client.died(Failure(kind="EngineFailed", message="the engine failed"))
    for thread in threads:
        thread.join()
    assert failed == ["the engine failed (EngineFailed)"] * 3
    assert len(desk.client.table) == 0
    with pytest.raises(EngineError, match="the engine failed"):
        desk.generate("d")
