"""A small stand-in for the scheduler: makes batches for a worker, one chunk at a time or many.

Pages are handed out in a scattered order, so that nothing works by standing in a row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from espalier.protocol.arrays import NO_IDS, ids
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.protocol.step import Join, PageChanges, StepBatch, StepResult
from espalier.worker.executor import LocalExecutor
from espalier.worker.worker import Worker, WorkerSpec

VOCABULARY = 96
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}
SPEC = WorkerSpec(
    folder="",
    config=CONFIG,
    num_pages=64,
    page_size=4,
    max_running=6,
    context_length=256,
    dtype="float32",
    load_format="dummy",
)
GREEDY = Sampling(temperature=0.0)


def local() -> LocalExecutor:
    return LocalExecutor(Worker.build(SPEC))


@dataclass
class Chunk:
    """Tokens of a slot that are given; `own` of the chunk's first are the worker's already."""

    slot: int
    start: int
    given: Sequence[int] = ()
    own: int = 0
    samples: int = 1
    logits: int = -1  # as many as samples
    ahead: int = -1  # the token after the chunk, if it is given


@dataclass
class Driver:
    """Batches in order; it knows which pages are whose."""

    page_size: int = SPEC.page_size
    number: int = 0
    pages: dict[int, list[int]] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    changes: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = list(range(1, SPEC.num_pages))
        random.Random(5).shuffle(self.free)

    def join(
        self,
        slot: int,
        prompt_length: int,
        sampling: Sampling = GREEDY,
        logprobs: LogprobsWanted | None = None,
    ) -> None:
        self.joins.append(Join(slot, sampling, prompt_length, logprobs, ""))
        self.pages[slot] = []

    def leave(self, slot: int) -> None:
        self.leaves.append(slot)
        self.free += self.pages.pop(slot)

    def add_page(self, slot: int, page: int | None = None) -> int:
        page = self.free.pop(0) if page is None else page
        self.changes.append((slot, len(self.pages[slot]), page))
        self.pages[slot].append(page)
        return page

    def batch(self, *chunks: Chunk) -> StepBatch:
        for chunk in chunks:
            end = chunk.start + chunk.own + len(chunk.given) + (chunk.samples > 0)
            while len(self.pages[chunk.slot]) * self.page_size < end:
                self.add_page(chunk.slot)
        self.number += 1
        given = [
            (*chunk.given, chunk.ahead)[: len(chunk.given) + (chunk.ahead >= 0)] for chunk in chunks
        ]
        changes = np.array(self.changes, np.int32).reshape(-1, 3).T
        copies = np.array(self.copies, np.int32).reshape(-1, 2).T
        batch = StepBatch(
            number=self.number,
            slots=ids([chunk.slot for chunk in chunks]),
            starts=ids([chunk.start for chunk in chunks]),
            counts=ids([chunk.own + len(chunk.given) for chunk in chunks]),
            samples=ids([chunk.samples for chunk in chunks]),
            logits=ids([max(chunk.samples, chunk.logits) for chunk in chunks]),
            supplied=ids([len(tokens) for tokens in given]),
            ahead=ids([chunk.ahead >= 0 for chunk in chunks]),
            tokens=ids([token for tokens in given for token in tokens]),
            pages=(PageChanges(*(ids(column) for column in (*changes, *copies))),),
            joins=tuple(self.joins),
            leaves=ids(self.leaves) if self.leaves else NO_IDS,
        )
        self.joins, self.leaves, self.changes, self.copies = [], [], [], []
        return batch


def step(executor: LocalExecutor, batch: StepBatch) -> StepResult:
    return executor.wait_for_tokens(executor.sample(executor.forward(batch)))


def generate(
    executor: LocalExecutor,
    prompt: Sequence[int],
    count: int,
    sampling: Sampling = GREEDY,
    *,
    driver: Driver | None = None,
    pieces: Sequence[int] = (),
) -> list[int]:
    """A text, alone: its prompt in `pieces`, then token by token."""
    driver, slot = driver or Driver(), 3
    driver.join(slot, len(prompt), sampling)
    out: list[int] = []
    start = 0
    for piece in (*pieces, len(prompt) - sum(pieces)):
        samples = int(start + piece == len(prompt))
        given = prompt[start : start + piece]
        result = step(executor, driver.batch(Chunk(slot, start, given, samples=samples)))
        out += result.tokens.tolist()
        start += piece
    while len(out) < count:
        result = step(executor, driver.batch(Chunk(slot, start, own=1)))
        out += result.tokens.tolist()
        start += 1
    driver.leave(slot)
    return out
