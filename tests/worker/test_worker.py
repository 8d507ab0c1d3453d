"""The worker on a tiny Llama: a text does not depend on how it came to be computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.errors import StepFailed
from espalier.protocol.messages import Logprobs
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.protocol.step import (
    NOT_A_NUMBER,
    NOTHING_POSSIBLE,
    OK,
    StepResult,
    decode_batch,
    encode,
)
from espalier.worker.executor import LocalExecutor
from espalier.worker.failures import WorkerFailed
from espalier.worker.memory import cache_layout, num_pages_for, page_bytes
from tests.worker.driver import GREEDY, SPEC, VOCABULARY, Chunk, Driver, generate, local, step

PROMPT = [int(token) for token in np.random.default_rng(3).integers(0, VOCABULARY, 21)]
RANDOM = Sampling(temperature=1.3, top_p=0.95, seed=11, frequency_penalty=0.4, min_p=0.01)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    made = local()
    yield made
    made.close()


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM], ids=["greedy", "random"])
@pytest.mark.parametrize("pieces", [[1] * 20, [7, 7], [4, 4, 12]], ids=str)
def test_a_prompt_in_pieces_gives_the_text_of_a_whole_one(
    executor: LocalExecutor, pieces: list[int], sampling: Sampling
) -> None:
    whole = generate(executor, PROMPT, 12, sampling)
    assert generate(executor, PROMPT, 12, sampling, pieces=pieces) == whole


def test_an_output_token_given_back_as_prompt_is_the_same_text(executor: LocalExecutor) -> None:
    """As after preemption: the penalties still know where the output began."""
    whole = generate(executor, PROMPT, 12, RANDOM)
    driver = Driver()
    driver.join(1, len(PROMPT), RANDOM)
    result = step(executor, driver.batch(Chunk(1, 0, PROMPT + whole[:5])))
    assert result.tokens.tolist() == whole[5:6]


def test_a_text_among_others_is_the_text_alone(executor: LocalExecutor) -> None:
    prompts = [PROMPT[: 5 + 3 * slot] for slot in range(5)]
    asked = [GREEDY, RANDOM, Sampling(seed=4, top_k=7), Sampling(seed=4), Sampling(seed=5)]
    alone = [generate(executor, *pair[:1], 6, pair[1]) for pair in zip(prompts, asked, strict=True)]
    driver = Driver()
    order = [3, 0, 4, 1, 2]
    texts: dict[int, list[int]] = {slot: [] for slot in order}
    for slot in order:
        driver.join(slot, len(prompts[slot]), asked[slot])
    chunks = [Chunk(slot, 0, prompts[slot]) for slot in order]
    for _ in range(6):
        result = step(executor, driver.batch(*chunks))
        for slot, token in zip(order, result.tokens.tolist(), strict=True):
            texts[slot].append(token)
        chunks = [Chunk(slot, len(prompts[slot]) + len(texts[slot]) - 1, own=1) for slot in order]
    assert [texts[slot] for slot in range(5)] == alone


def verified(executor: LocalExecutor, sampling: Sampling, drafts: list[list[int]]) -> list[int]:
    """A text made with these drafts, one list a step."""
    driver = Driver()
    driver.join(0, len(PROMPT), sampling, LogprobsWanted())
    out = step(executor, driver.batch(Chunk(0, 0, PROMPT))).tokens.tolist()
    for guess in drafts:
        start = len(PROMPT) + len(out) - 1
        chunk = Chunk(0, start, guess, own=1, samples=1 + len(guess))
        result = step(executor, driver.batch(chunk))
        assert result.counts.tolist() == [len(result.tokens)]
        assert result.logprobs is not None
        assert result.logprobs.tokens.tolist() == result.tokens.tolist()
        assert result.logprobs.positions.tolist() == list(
            range(start + 1, start + 1 + len(result.tokens))
        )
        out += result.tokens.tolist()
    return out


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5))
@pytest.mark.parametrize("sampling", [GREEDY, RANDOM], ids=["greedy", "random"])
def test_drafts_right_or_wrong_never_change_the_text(
    executor: LocalExecutor, sampling: Sampling, plan: list[tuple[int, int]]
) -> None:
    """Each step has so many right drafts, then so many wrong ones."""
    whole = generate(executor, PROMPT, 48, sampling)
    drafts, at = [], 1
    for right, wrong in plan:
        true = whole[at : at + right + wrong]
        drafts.append(true[:right] + [(token + 1) % VOCABULARY for token in true[right:]])
        at += right + 1
    out = verified(executor, sampling, drafts)
    assert len(out) == at
    assert out == whole[:at]


def test_a_shared_page_carries_its_tokens_and_a_copied_one_too(executor: LocalExecutor) -> None:
    """A follower on a leader's pages, in the leader's own step, with penalties over all of it."""
    asked = Sampling(temperature=0.0, repetition_penalty=1.8)
    alone = generate(executor, PROMPT, 5, asked)
    driver = Driver()
    driver.join(0, len(PROMPT), GREEDY)
    driver.join(1, len(PROMPT), asked)
    leader = Chunk(0, 0, PROMPT[:18], samples=0)
    for _ in range(5):
        driver.add_page(0)
    for page in driver.pages[0][:4]:
        driver.add_page(1, page)
    step(executor, driver.batch(leader, Chunk(1, 16, PROMPT[16:20], samples=0)))
    # The fifth page goes on as a copy, whose source is overwritten in the same breath.
    own, other = driver.pages[1][4], driver.free.pop()
    driver.copies = [(own, other), (driver.pages[0][0], own)]
    driver.changes.append((1, 4, other))
    driver.pages[1][4] = other
    out = step(executor, driver.batch(Chunk(1, 20, PROMPT[20:]))).tokens.tolist()
    while len(out) < 5:
        start = len(PROMPT) + len(out) - 1
        out += step(executor, driver.batch(Chunk(1, start, own=1))).tokens.tolist()
    assert out == alone


def test_a_slot_left_and_joined_in_one_batch_forgets_who_had_it(executor: LocalExecutor) -> None:
    driver = Driver()
    banned = generate(executor, PROMPT, 1)[0]
    generate(executor, PROMPT, 3, Sampling(seed=3, bias=((banned, -100.0),)), driver=driver)
    assert generate(executor, PROMPT, 8, driver=driver) == generate(executor, PROMPT, 8)


def scored(result: StepResult) -> Logprobs:
    assert result.logprobs is not None
    return result.logprobs


def prompt_scores(executor: LocalExecutor, pieces: list[int]) -> list[Logprobs]:
    wanted = LogprobsWanted(top=3, listed=(1, 5), prompt_from=0)
    driver, start, found = Driver(), 0, []
    driver.join(2, len(PROMPT), RANDOM, wanted)
    for piece in pieces:
        end = start + piece
        last = end == len(PROMPT)
        ahead = -1 if last else PROMPT[end]
        chunk = Chunk(2, start, PROMPT[start:end], samples=int(last), logits=piece, ahead=ahead)
        found.append(scored(step(executor, driver.batch(chunk))))
        start = end
    return found


@pytest.mark.parametrize("pieces", [[21], [1] * 21, [8, 13], [16, 4, 1]], ids=str)
def test_prompt_log_probabilities_do_not_depend_on_the_chunks(
    executor: LocalExecutor, pieces: list[int]
) -> None:
    [whole], parts = prompt_scores(executor, [21]), prompt_scores(executor, pieces)
    assert whole.positions.tolist() == list(range(1, len(PROMPT) + 1))
    assert whole.tokens.tolist()[:-1] == PROMPT[1:]
    for name in ("positions", "tokens", "values", "top_tokens", "top_values", "listed_values"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(whole, name)), name


def test_log_probabilities_are_those_of_the_models_logits(executor: LocalExecutor) -> None:
    [found] = prompt_scores(executor, [21])
    worker = local()._open()
    driver = Driver()
    driver.join(0, len(PROMPT))
    started = worker.runner.forward(driver.batch(Chunk(0, 0, PROMPT, samples=len(PROMPT))))
    expected = worker.model.logits(started.hidden_RD).double().log_softmax(-1)
    rows = torch.arange(len(PROMPT))
    tokens = torch.from_numpy(found.tokens.astype(np.int64))
    np.testing.assert_allclose(found.values, expected[rows, tokens].numpy(), atol=1e-5)
    assert found.top_counts.tolist() == [3] * 21
    best = expected.topk(3)
    assert found.top_tokens.tolist() == best.indices.flatten().tolist()
    np.testing.assert_allclose(found.top_values, best.values.flatten().numpy(), atol=1e-5)
    assert found.listed_tokens.tolist() == [1, 5] * 21
    np.testing.assert_allclose(
        found.listed_values, expected[:, [1, 5]].flatten().numpy(), atol=1e-5
    )


def test_prompt_positions_are_scored_from_the_one_asked_for(executor: LocalExecutor) -> None:
    driver = Driver()
    driver.join(0, len(PROMPT), GREEDY, LogprobsWanted(prompt_from=17))
    driver.join(1, 5, GREEDY)
    driver.join(4, 5, GREEDY, LogprobsWanted())
    chunks = [Chunk(0, 0, PROMPT, logits=5), Chunk(1, 0, PROMPT[:5]), Chunk(4, 0, PROMPT[:5])]
    found = scored(step(executor, driver.batch(*chunks)))
    assert found.owners.tolist() == [0] * 5 + [2]
    assert found.positions.tolist() == [17, 18, 19, 20, 21, 5]


def test_many_rows_of_logits_go_through_the_head_in_blocks(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    [whole] = prompt_scores(executor, [21])
    monkeypatch.setattr("espalier.worker.runner.BLOCK", 4)
    [blocks] = prompt_scores(executor, [21])
    assert np.array_equal(whole.values, blocks.values)
    assert np.array_equal(whole.top_tokens, blocks.top_tokens)


def test_each_of_several_prompts_in_a_step_has_its_own_next_token(executor: LocalExecutor) -> None:
    driver, wanted = Driver(), LogprobsWanted(prompt_from=0)
    for slot in (0, 1, 2):
        driver.join(slot, len(PROMPT), GREEDY, wanted)
    chunks = [
        Chunk(slot, 0, PROMPT[:end], samples=0, logits=end, ahead=PROMPT[end])
        for slot, end in ((0, 3), (1, 6), (2, 2))
    ]
    found = scored(step(executor, driver.batch(*chunks)))
    assert found.tokens.tolist() == PROMPT[1:4] + PROMPT[1:7] + PROMPT[1:3]
    # What was given ahead was not stored for another: the texts go on as they should.
    ends = {0: 3, 1: 6, 2: 2}
    rest = [Chunk(slot, end, PROMPT[end:]) for slot, end in ends.items()]
    text = step(executor, driver.batch(*rest)).tokens.tolist()
    assert text == generate(executor, PROMPT, 1) * 3


def test_pages_may_be_swapped_by_copies() -> None:
    pools = local()._open().pools
    for pool in (*pools.kv, pools.tokens):
        pool.copy_(torch.randint(0, 99, pool.shape))
    size = SPEC.page_size
    one, two = slice(3 * size, 4 * size), slice(9 * size, 10 * size)
    before = [pool.clone() for pool in pools.kv], pools.tokens.clone()
    pools.copy_pages(np.array([3, 9], np.int32), np.array([9, 3], np.int32))
    for old, new in zip(
        (*before[0], before[1][None]), (*pools.kv, pools.tokens[None]), strict=True
    ):
        assert torch.equal(new[:, one], old[:, two])
        assert torch.equal(new[:, two], old[:, one])
        assert torch.equal(new[:, 10 * size :], old[:, 10 * size :])


def test_a_batch_that_crossed_a_process_border_is_the_same(executor: LocalExecutor) -> None:
    driver = Driver()
    driver.join(0, len(PROMPT), RANDOM)
    batch = driver.batch(Chunk(0, 0, PROMPT))
    once = step(executor, batch).tokens.tolist()
    assert step(executor, decode_batch(encode(batch))).tokens.tolist() == once


@pytest.mark.parametrize(
    ("cause", "out_of_memory"),
    [
        (RuntimeError("no such kernel"), False),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("half", ["prepare", "logits"])
def test_a_failed_step_leaves_the_worker_good_for_the_next(
    monkeypatch: pytest.MonkeyPatch, half: str, cause: Exception, out_of_memory: bool
) -> None:
    executor = local()
    worker = executor._open()
    expected = generate(executor, PROMPT, 6, RANDOM)
    driver = Driver()
    driver.join(0, len(PROMPT), RANDOM)
    out = step(executor, driver.batch(Chunk(0, 0, PROMPT))).tokens.tolist()
    batch = driver.batch(Chunk(0, len(PROMPT), own=1))

    def fail(*_: object) -> None:
        raise cause

    with monkeypatch.context() as patch:
        patch.setattr(worker.runner.backend if half == "prepare" else worker.model, half, fail)
        with pytest.raises(WorkerFailed) as caught:
            step(executor, batch)
    assert isinstance(caught.value, StepFailed)
    assert caught.value.out_of_memory == out_of_memory
    assert caught.value.__cause__ is cause
    out += step(executor, batch).tokens.tolist()
    while len(out) < 6:
        chunk = Chunk(0, len(PROMPT) + len(out) - 1, own=1)
        out += step(executor, driver.batch(chunk)).tokens.tolist()
    assert out == expected
    assert executor.statistics().failed_steps == 1


def test_a_row_that_is_not_a_number_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = local()
    model = executor._open().model
    whole = model.logits
    expected = generate(executor, PROMPT, 1)

    def spoiled(hidden: torch.Tensor) -> torch.Tensor:
        logits = whole(hidden)
        logits[1, 7] = torch.nan
        logits[2] = -torch.inf
        return logits

    monkeypatch.setattr(model, "logits", spoiled)
    driver = Driver()
    for slot in range(4):
        driver.join(slot, len(PROMPT), GREEDY, LogprobsWanted(top=2))
    result = step(executor, driver.batch(*(Chunk(slot, 0, PROMPT) for slot in range(4))))
    assert result.status.tolist() == [OK, NOT_A_NUMBER, NOTHING_POSSIBLE, OK]
    assert result.counts.tolist() == [1, 0, 0, 1]
    assert result.tokens.tolist() == expected * 2
    assert scored(result).owners.tolist() == [0, 3]


@pytest.mark.parametrize("block", [1, 256])
def test_a_mask_row_is_for_the_row_that_chooses(
    executor: LocalExecutor, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.worker.runner.BLOCK", block)
    driver = Driver()
    for slot in range(3):
        driver.join(slot, len(PROMPT), GREEDY)
    chunks = [Chunk(0, 0, PROMPT), Chunk(1, 0, PROMPT, samples=0), Chunk(2, 0, PROMPT)]
    masks = np.full((2, 3), -1, np.int32)
    masks[1] = 0
    masks[1, 40 // 32] = 1 << (40 % 32)
    started = executor.forward(driver.batch(*chunks))
    result = executor.wait_for_tokens(executor.sample(started, masks))
    assert result.tokens.tolist() == [*generate(executor, PROMPT, 1), 40]


def test_the_page_table_grows_with_the_longest_request() -> None:
    executor = local()
    text = generate(executor, PROMPT, 120)
    assert len(text) == 120
    assert executor._open().runner.inputs.table.shape[1] >= (len(PROMPT) + 120) // SPEC.page_size


def test_a_step_may_choose_nothing_at_all(executor: LocalExecutor) -> None:
    driver = Driver()
    driver.join(0, len(PROMPT))
    result = step(executor, driver.batch(Chunk(0, 0, PROMPT[:3], samples=0)))
    assert [len(result.counts), len(result.tokens), len(result.status)] == [0, 0, 0]
    assert result.logprobs is None


def test_memory_is_counted_in_whole_pages() -> None:
    worker = local()._open()
    layout = cache_layout(worker.model.heads(), SPEC.page_size, torch.float32)
    assert worker.pools.size_bytes == SPEC.num_pages * page_bytes(layout)
    assert num_pages_for(layout, worker.pools.size_bytes) == SPEC.num_pages
    assert num_pages_for(layout, worker.pools.size_bytes - 1) == SPEC.num_pages - 1
    assert num_pages_for(layout, -5) == 0


def test_the_costliest_step_can_be_measured_and_leaves_nothing_behind() -> None:
    executor = local()
    expected = generate(local(), PROMPT, 4)
    assert executor._open().workspace_bytes(128) >= 0
    assert not executor._open().runner.table.processors
    assert generate(executor, PROMPT, 4) == expected


def test_statistics_count_what_was_computed(executor: LocalExecutor) -> None:
    before = executor.statistics()
    generate(executor, PROMPT, 3)
    after = executor.statistics()
    assert after.steps - before.steps == 3
    assert after.tokens - before.tokens == len(PROMPT) + 2
    assert after.cache_bytes == before.cache_bytes > 0
    assert executor.agree(7) == 7
