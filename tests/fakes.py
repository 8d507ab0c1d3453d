"""Fakes of the engine's protocols: an executor whose next token is a hash of all tokens before it.

So the right output of a request is known whatever else runs: any error of page, position, cache,
preemption or draft changes the text. The executor also keeps, for each place in its pool, which
token of which namespace was stored there for which position, and compares before every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from espalier.errors import StepFailed
from espalier.protocol.arrays import Ids, ids
from espalier.protocol.messages import Logprobs
from espalier.protocol.sampling import Sampling
from espalier.protocol.step import NOT_A_NUMBER, OK, Join, StepBatch, StepResult

VOCABULARY = 50


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _digest(tokens: Sequence[int], sampling: Sampling) -> int:
    seed = 0 if sampling.temperature == 0 else sampling.seed * 31 + sampling.sample
    key = seed.to_bytes(16, "little", signed=True)
    data = np.asarray(tokens, np.int32).tobytes()
    return int.from_bytes(blake2b(data, digest_size=8, key=key).digest(), "little")


def next_token(tokens: Sequence[int], prompt_length: int, sampling: Sampling) -> int:
    """The token after `tokens`; never a stop token before the least length."""
    chosen = _digest(tokens, sampling) % VOCABULARY
    early = len(tokens) - prompt_length < sampling.min_tokens
    while early and chosen in sampling.stop:
        chosen = (chosen + 1) % VOCABULARY
    return chosen


def score(tokens: Sequence[int], token: int) -> float:
    """The log probability of `token` after `tokens`, as this fake has it."""
    return -float(_digest([*tokens, token], Sampling(temperature=0.0)) % 1000) / 100.0


def oracle(prompt: Sequence[int], max_tokens: int, sampling: Sampling) -> list[int]:
    """The whole output of a request, computed by itself."""
    tokens = list(prompt)
    for _ in range(max_tokens):
        token = next_token(tokens, len(prompt), sampling)
        tokens.append(token)
        made = len(tokens) - len(prompt)
        if token in sampling.stop and made > sampling.min_tokens:
            break
    return tokens[len(prompt) :]


@dataclass
class Faults:
    """What is to go wrong: steps whose forward raises, and rows (step, slot) that give no number."""

    steps: set[int] = field(default_factory=set)
    out_of_memory: bool = False
    rows: set[tuple[int, int]] = field(default_factory=set)


class FakeExecutor:
    """Runs a batch when its result is asked for, as a device would: late, and in order."""

    def __init__(self, num_pages: int, page_size: int, max_running: int, width: int = 512) -> None:
        self.page_size = page_size
        places = num_pages * page_size
        self.token = np.full(places, -1, np.int64)
        self.position = np.full(places, -1, np.int64)
        self.space = np.full(places, -1, np.int64)
        self.table = np.zeros((max_running, width), np.int64)
        self.joins: dict[int, Join] = {}
        self.history: dict[int, list[int]] = {}
        self.spaces: dict[str, int] = {}
        self.faults = Faults()
        self.computed = 0  # tokens, all in all
        self.lost: set[int] = set()  # slots whose row gave no number: what follows there is void

    def forward(self, batch: StepBatch) -> StepBatch:
        return batch

    def sample(self, started: StepBatch, masks: Ids | None = None) -> StepBatch:
        del masks
        return started

    def agree(self, num_tokens: int) -> int:
        return num_tokens

    def wait_for_tokens(self, flight: StepBatch) -> StepResult:
        batch = flight
        self._take_in(batch)
        if batch.number in self.faults.steps:
            raise StepFailed("this step was told to fail")
        self._store(batch)
        return self._choose(batch)

    def _take_in(self, batch: StepBatch) -> None:
        for slot in batch.leaves.tolist():
            self.joins.pop(slot, None)
            self.history.pop(slot, None)
            self.lost.discard(slot)
        for join in batch.joins:
            self.joins[join.slot] = join
            self.history[join.slot] = []
            self.spaces.setdefault(join.namespace, len(self.spaces))
        (news,) = batch.pages
        self.table[news.slots, news.indexes] = news.pages
        for array in (self.token, self.position, self.space):
            rows = array.reshape(-1, self.page_size)
            rows[news.copy_to] = rows[news.copy_from].copy()

    def places(self, slot: int, start: int, end: int) -> np.ndarray:
        positions = np.arange(start, end)
        pages = self.table[slot, positions // self.page_size]
        assert (pages > 0).all(), f"slot {slot} has no page for a position in [{start}, {end})"
        return pages * self.page_size + positions % self.page_size

    def _store(self, batch: StepBatch) -> None:
        """All of the step's tokens are stored before any is read, as attention does."""
        taken = 0
        for slot, start, count, supplied, ahead in zip(
            batch.slots.tolist(),
            batch.starts.tolist(),
            batch.counts.tolist(),
            batch.supplied.tolist(),
            batch.ahead.tolist(),
            strict=True,
        ):
            given = batch.tokens[taken : taken + supplied].tolist()
            taken += supplied
            history = self.history[slot]
            if slot in self.lost:
                continue
            if len(history) < start:
                self._found(batch, slot, start, history)
            end = start + count
            del history[end + ahead - supplied :]
            history.extend(given)
            assert len(history) == end + ahead, f"slot {slot} was given the wrong tokens"
            places = self.places(slot, start, start + count)
            self.token[places] = history[start:end]
            self.position[places] = np.arange(start, start + count)
            self.space[places] = self.spaces[self.joins[slot].namespace]
            self.computed += count
        assert taken == len(batch.tokens), "tokens were supplied that no chunk takes"
        for slot, start, count in zip(
            batch.slots.tolist(), batch.starts.tolist(), batch.counts.tolist(), strict=True
        ):
            if slot not in self.lost:
                self._compare(slot, start + count)

    def _found(self, batch: StepBatch, slot: int, start: int, history: list[int]) -> None:
        """A prefix from the cache: its tokens are what stands in its pages, or will this step."""
        places = self.places(slot, len(history), start)
        writes = self._writes(batch)
        history.extend(writes.get(place, int(self.token[place])) for place in places.tolist())

    def _writes(self, batch: StepBatch) -> dict[int, int]:
        """Where this step's supplied tokens go: a follower may stand on a leader's of this step."""
        written: dict[int, int] = {}
        taken = 0
        for slot, start, count, supplied, ahead in zip(
            batch.slots.tolist(),
            batch.starts.tolist(),
            batch.counts.tolist(),
            batch.supplied.tolist(),
            batch.ahead.tolist(),
            strict=True,
        ):
            end = start + count
            places = self.places(slot, end + ahead - supplied, end + ahead).tolist()
            given = batch.tokens[taken : taken + supplied].tolist()
            taken += supplied
            written.update(zip(places, given, strict=True))
        return written

    def _compare(self, slot: int, end: int) -> None:
        places = self.places(slot, 0, end)
        space = self.spaces[self.joins[slot].namespace]
        assert self.token[places].tolist() == self.history[slot][:end], f"I5: slot {slot}'s tokens"
        assert (self.position[places] == np.arange(end)).all(), f"I5: slot {slot}'s positions"
        assert (self.space[places] == space).all(), f"I13: slot {slot} reads another namespace"

    def _choose(self, batch: StepBatch) -> StepResult:
        counts, tokens, status = [], [], []
        scored = _Scores()
        for chunk, (slot, start, count, samples, logits) in enumerate(
            zip(
                batch.slots.tolist(),
                batch.starts.tolist(),
                batch.counts.tolist(),
                batch.samples.tolist(),
                batch.logits.tolist(),
                strict=True,
            )
        ):
            join, history = self.joins[slot], self.history[slot]
            end = start + count
            faulty = samples and (batch.number, slot) in self.faults.rows
            if slot in self.lost or faulty:
                self._lose(slot, samples, counts, status)
                continue
            scored.prompt(chunk, join, history, end - logits, end)
            if not samples:
                continue
            accepted = self._verify(join, history, end - samples, end)
            del history[end - samples + 1 :]
            scored.output(chunk, join, history, accepted)
            history.extend(accepted)
            counts.append(len(accepted))
            tokens.extend(accepted)
            status.append(OK)
        return StepResult(batch.number, ids(counts), ids(tokens), ids(status), scored.made())

    def _lose(self, slot: int, samples: int, counts: list[int], status: list[int]) -> None:
        if samples:
            self.lost.add(slot)
            counts.append(0)
            status.append(NOT_A_NUMBER)

    def _verify(self, join: Join, history: list[int], first: int, end: int) -> list[int]:
        """The target's own tokens, as long as the drafts agree with them."""
        accepted: list[int] = []
        for row in range(first, end):
            token = next_token(history[: row + 1], join.prompt_length, join.sampling)
            accepted.append(token)
            if row + 1 < end and history[row + 1] != token:
                break
        return accepted


class _Scores:
    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, float, list[int], list[int], list[int]]] = []

    def prompt(self, chunk: int, join: Join, history: list[int], first: int, end: int) -> None:
        wanted = join.logprobs
        if wanted is None or wanted.prompt_from < 0:
            return
        for row in range(first, min(end, join.prompt_length - 1)):
            if row + 1 >= wanted.prompt_from and row + 1 < len(history):
                self._add(chunk, join, history[: row + 1], history[row + 1])

    def output(self, chunk: int, join: Join, history: list[int], accepted: list[int]) -> None:
        if join.logprobs is None:
            return
        tokens = list(history)
        for token in accepted:
            self._add(chunk, join, tokens, token)
            tokens.append(token)

    def _add(self, chunk: int, join: Join, before: list[int], token: int) -> None:
        wanted = join.logprobs
        assert wanted is not None
        best = sorted(range(VOCABULARY), key=lambda one: -score(before, one))[: wanted.top]
        self.rows.append(
            (chunk, len(before), token, score(before, token), before, best, list(wanted.listed))
        )

    def made(self) -> Logprobs | None:
        if not self.rows:
            return None

        def values(column: int) -> np.ndarray:
            return np.array(
                [score(row[4], token) for row in self.rows for token in row[column]], np.float32
            )

        def flat(column: int) -> Ids:
            return ids([token for row in self.rows for token in row[column]])

        return Logprobs(
            owners=np.array([row[0] for row in self.rows], np.int64),
            positions=ids([row[1] for row in self.rows]),
            tokens=ids([row[2] for row in self.rows]),
            values=np.array([row[3] for row in self.rows], np.float32),
            top_counts=ids([len(row[5]) for row in self.rows]),
            top_tokens=flat(5),
            top_values=values(5),
            listed_counts=ids([len(row[6]) for row in self.rows]),
            listed_tokens=flat(6),
            listed_values=values(6),
        )
