"""The same on a real model in float32: whatever the schedule, tokens and log probabilities are the
same to the last bit. A model's rows do not depend on their batch on a CPU, so nothing may differ.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from transformers import Gemma2Config, LlamaConfig, MixtralConfig

from espalier.cache.prefix import PrefixCache
from espalier.protocol.arrays import ids
from espalier.protocol.messages import Generate, RequestId
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.protocol.step import StepBatch
from espalier.scheduler import invariants
from espalier.scheduler.plan import Limits
from espalier.scheduler.scheduler import Scheduler
from espalier.speculative.ngram import Ngram
from espalier.worker.executor import LocalExecutor
from espalier.worker.worker import Worker, WorkerSpec
from tests.fakes import Clock
from tests.models.harness import ours_like, tiny_checkpoint
from tests.system.world import Shape

VOCABULARY = 160
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES, head_dim=24, sliding_window=17, query_pre_attn_scalar=20),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=6, num_experts_per_tok=2),
}
CALM = Shape(num_pages=64, page_size=16, max_running=1, max_step_tokens=512, chunk_tokens=512)
SHAPES = {
    "batched": Shape(num_pages=200, page_size=16, max_running=8, max_step_tokens=512),
    "in chunks": Shape(num_pages=400, page_size=4, max_running=8, chunk_tokens=7),
    "token by token": Shape(num_pages=1000, page_size=1, max_running=4, chunk_tokens=1),
    "put back": Shape(num_pages=30, page_size=4, max_running=8, chunk_tokens=16),
    "without cache": Shape(num_pages=200, page_size=8, max_running=5, sharing=False),
    "one step ahead": Shape(num_pages=200, page_size=8, max_running=6, look_ahead=1),
    "with drafts": Shape(num_pages=200, page_size=8, max_running=6, max_drafts=4),
    "by priority": Shape(num_pages=40, page_size=4, max_running=3, policy="lpm"),
}


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    reason: str = ""


def requests() -> list[Generate]:
    rng = random.Random(3)
    trunk = [rng.randrange(VOCABULARY) for _ in range(60)]
    made = []
    for number in range(1, 15):
        prompt = trunk[: rng.choice((0, 9, 33, 60))]
        prompt = prompt + [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 20))]
        prompt += prompt[-6:] * 2  # so that drafts find something
        sampling = Sampling(
            temperature=rng.choice((0.0, 0.8)),
            top_p=rng.choice((1.0, 0.9)),
            top_k=rng.choice((0, 20)),
            repetition_penalty=rng.choice((1.0, 1.3)),
            frequency_penalty=rng.choice((0.0, 0.5)),
            seed=number,
            sample=number % 3,
            stop=(5, 6),
            min_tokens=rng.choice((0, 4)),
        )
        wanted = LogprobsWanted(top=2, prompt_from=rng.choice((-1, 0, 8)))
        made.append(
            Generate(
                request=RequestId(number),
                prompt=ids(prompt),
                max_tokens=rng.choice((1, 8, 20)),
                sampling=sampling,
                logprobs=wanted if number % 2 else None,
                priority=number % 2,
            )
        )
    return made


def run(model: Any, shape: Shape, messages: list[Generate]) -> tuple[dict[int, Answer], Any]:
    limits = Limits(
        max_step_tokens=max(shape.max_step_tokens, shape.max_running * (1 + shape.max_drafts) + 1),
        chunk_tokens=shape.chunk_tokens,
        max_running=shape.max_running,
        page_size=shape.page_size,
        context_length=200,
        vocabulary=VOCABULARY,
        capacity=(shape.num_pages - 1) * shape.page_size,
        max_queued=100,
        max_queued_tokens=10_000,
        look_ahead=shape.look_ahead,
        max_drafts=shape.max_drafts,
    )
    cache = PrefixCache(shape.num_pages, shape.page_size, sharing=shape.sharing)
    proposer = Ngram(shortest=1) if shape.max_drafts else None
    scheduler = Scheduler(limits, cache, Clock(), policy=shape.policy, proposer=proposer)
    spec = WorkerSpec(
        folder="",
        num_pages=shape.num_pages,
        page_size=shape.page_size,
        max_running=shape.max_running,
        context_length=200,
        dtype="float32",
    )
    executor = LocalExecutor(Worker(spec, model, VOCABULARY))
    for message in messages:
        scheduler.take(message)
    answers = {int(message.request): Answer() for message in messages}
    flying: deque[StepBatch] = deque()
    while scheduler.has_work or flying:
        batch = scheduler.next_batch()
        if batch is not None:
            flying.append(batch)
        if len(flying) > shape.look_ahead or (batch is None and flying):
            started = executor.forward(flying.popleft())
            scheduler.apply(executor.wait_for_tokens(executor.sample(started)))
        invariants.check(scheduler.state)
        collect(scheduler, answers)
    return answers, scheduler.state.totals


def collect(scheduler: Scheduler, answers: dict[int, Answer]) -> None:
    output = scheduler.take_output()
    if output is None:
        return
    taken = 0
    for number, count in zip(output.requests.tolist(), output.counts.tolist(), strict=True):
        answers[number].tokens += output.tokens[taken : taken + count].tolist()
        taken += count
    if (scores := output.logprobs) is not None:
        for row, owner in enumerate(scores.owners.tolist()):
            position = int(scores.positions[row])
            assert position not in answers[owner].scores, "scored twice"
            answers[owner].scores[position] = float(scores.values[row])
    for finished in output.finished:
        answers[finished.request].reason = finished.reason


@pytest.mark.parametrize("family", CONFIGS)
def test_no_schedule_changes_a_bit_of_what_a_model_says(family: str) -> None:
    model = ours_like(tiny_checkpoint(CONFIGS[family]))
    alone = {}
    for message in requests():
        answer, _ = run(model, CALM, [message])
        alone |= answer
    for name, shape in SHAPES.items():
        together, totals = run(model, shape, requests())
        for number, right in alone.items():
            got = together[number]
            assert got.tokens == right.tokens, f"{name}: request {number}"
            assert got.reason == right.reason, f"{name}: request {number}"
            assert got.scores == right.scores, f"{name}: request {number}'s log probabilities"
        assert (totals.preemptions > 0) == (name == "put back"), name
        assert (totals.cached_tokens > 0) == shape.sharing, name
