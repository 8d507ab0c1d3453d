"""Which rows of a step need logits, and what for.

A row is a position whose hidden state gives the distribution of the token after it. It chooses that
token, or scores the prompt's own, which the worker was given: with the chunk, or `ahead` of the
next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from espalier.protocol.arrays import ids
from espalier.protocol.step import StepBatch
from espalier.sampling.batch import SamplingTable
from espalier.sampling.sampler import Rows

Indexes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Needs:
    """R rows in the batch's order; `rows.positions` are those of the tokens after them."""

    rows: Rows
    chunks: Indexes  # each row's place in the batch
    hidden_R: Indexes  # its token in the step
    is_choosing: Flags
    is_last: Flags  # of its chunk, so that no token of the chunk stands after it
    ahead_R: Indexes  # the token after it, where it was given ahead; else UNKNOWN
    samples_S: Indexes  # rows of each chunk that chooses

    def __len__(self) -> int:
        return len(self.chunks)

    @property
    def ordinals(self) -> Indexes:
        """A row's place among those that choose; -1 for a row that scores a prompt."""
        return np.where(self.is_choosing, self.is_choosing.cumsum() - 1, -1)


def needs(batch: StepBatch, table: SamplingTable) -> Needs:
    """The rows that choose, and of the others those whose requests want their scores."""
    logits, samples = batch.logits.astype(np.int64), batch.samples.astype(np.int64)
    chunks = np.repeat(np.arange(len(logits)), logits)
    back = _back(logits)
    positions = (batch.starts + batch.counts)[chunks] + 1 - back
    is_choosing = back <= samples[chunks]
    slots = batch.slots[chunks]
    wanted = is_choosing
    if len(chunks) > samples.sum():
        from_S, to_S = table.scored_from[slots], table.prompt_lengths[slots]
        wanted = is_choosing | ((positions >= from_S) & (positions < to_S))
    hidden_R = batch.counts.cumsum(dtype=np.int64)[chunks] - back
    ahead_R = np.where(back == 1, _ahead(batch)[chunks], UNKNOWN)
    blind = wanted & ~is_choosing & (back == 1) & (ahead_R == UNKNOWN)
    assert not blind.any(), "a row scores a token that nobody gave"
    return Needs(
        rows=Rows(slots[wanted], ids(positions[wanted])),
        chunks=chunks[wanted],
        hidden_R=hidden_R[wanted],
        is_choosing=is_choosing[wanted],
        is_last=(back == 1)[wanted],
        ahead_R=ahead_R[wanted],
        samples_S=samples[samples > 0],
    )


def _back(counts: Indexes) -> Indexes:
    """For each of a chunk's rows, how far from the chunk's end it is: count, ..., 2, 1."""
    last = counts.cumsum()
    return np.repeat(last, counts) - np.arange(int(counts.sum()))


def _ahead(batch: StepBatch) -> Indexes:
    """Each chunk's token given ahead, the last of those supplied for it; UNKNOWN if there is none."""
    tokens = np.full(len(batch.slots), UNKNOWN, np.int64)
    given = np.flatnonzero(batch.ahead)
    tokens[given] = batch.tokens[batch.supplied.cumsum()[given] - 1]
    return tokens
