"""Which rows of a step need logits, and what for.

A row is a position whose hidden state gives the distribution of the token after it. It chooses that
token, or scores the prompt's own. The last row of an unfinished prompt's chunk scores a token that
the worker has not been given yet: it waits for the next chunk of its request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from espalier.protocol.arrays import ids
from espalier.protocol.step import StepBatch
from espalier.sampling.batch import SamplingTable
from espalier.sampling.sampler import Rows

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Needs:
    """R rows in the batch's order; `rows.positions` are those of the tokens after them."""

    rows: Rows
    chunks: Indexes  # each row's place in the batch
    hidden_R: Indexes  # its token in the step; 0, of no meaning, for one that waited
    is_choosing: npt.NDArray[np.bool_]
    samples_S: Indexes  # rows of each chunk that chooses
    continued: list[tuple[int, int]]  # (row, slot) of rows that waited
    waits: list[tuple[int, int, int]]  # (slot, position, token in the step) of rows that shall wait

    def __len__(self) -> int:
        return len(self.chunks)

    @property
    def choosing(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self.is_choosing)

    @property
    def lasts(self) -> Indexes:
        """Of the rows that choose, the last of each chunk: no draft stands after it."""
        return self.samples_S.cumsum() - 1

    @property
    def ordinals(self) -> Indexes:
        """A row's place among those that choose; -1 for a row that scores a prompt."""
        return np.where(self.is_choosing, self.is_choosing.cumsum() - 1, -1)


def needs(
    batch: StepBatch, table: SamplingTable, waiting: Mapping[int, tuple[int, Tensor]]
) -> Needs:
    """What a step must give; `waiting` has a position and a hidden state by slot."""
    if not table.logprobs or (not waiting and (batch.logits == batch.samples).all()):
        return _choosing_only(batch)
    return _with_prompts(batch, table, waiting)


def _choosing_only(batch: StepBatch) -> Needs:
    samples = batch.samples.astype(np.int64)
    chunks = np.repeat(np.arange(len(samples)), samples)
    ends = batch.counts.cumsum(dtype=np.int64)  # of each chunk, in the step
    back = _back(samples)
    after = (batch.starts + batch.counts)[chunks] + 1 - back
    return Needs(
        rows=Rows(batch.slots[chunks], ids(after)),
        chunks=chunks,
        hidden_R=ends[chunks] - back,
        is_choosing=np.ones(len(chunks), np.bool_),
        samples_S=samples[samples > 0],
        continued=[],
        waits=[],
    )


def _back(counts: Indexes) -> Indexes:
    """For each of a chunk's rows, how far from the chunk's end it is: count, ..., 2, 1."""
    last = counts.cumsum()
    return np.repeat(last, counts) - np.arange(int(counts.sum()))


def _with_prompts(
    batch: StepBatch, table: SamplingTable, waiting: Mapping[int, tuple[int, Tensor]]
) -> Needs:
    """The same where prompts are scored, chunk by chunk."""
    found: list[tuple[int, int, int, int, bool]] = []  # chunk, slot, position, token, chooses
    continued, waits = list[tuple[int, int]](), list[tuple[int, int, int]]()
    offset = 0
    columns = zip(
        batch.slots.tolist(),
        batch.starts.tolist(),
        batch.counts.tolist(),
        batch.samples.tolist(),
        batch.logits.tolist(),
        strict=True,
    )
    for chunk, (slot, start, count, samples, logits) in enumerate(columns):
        end, length = start + count, int(table.prompt_lengths[slot])
        asked = table.logprobs.get(slot)
        first = asked.prompt_from if asked is not None and asked.prompt_from >= 0 else length
        if slot in waiting and waiting[slot][0] == start and start < length:
            continued.append((len(found), slot))
            found.append((chunk, slot, start, 0, False))
        for position in range(end - logits, end - samples):
            if not first <= position + 1 < length:
                continue
            at = offset + position - start
            if position + 1 == end:
                waits.append((slot, end, at))
            else:
                found.append((chunk, slot, position + 1, at, False))
        found += [
            (chunk, slot, position + 1, offset + position - start, True)
            for position in range(end - samples, end)
        ]
        offset += count
    return _from_rows(batch, found, continued, waits)


def _from_rows(
    batch: StepBatch,
    found: list[tuple[int, int, int, int, bool]],
    continued: list[tuple[int, int]],
    waits: list[tuple[int, int, int]],
) -> Needs:
    columns = np.array(found, np.int64).reshape(-1, 5).T
    chunks, slots, positions, hidden, chooses = columns
    samples = batch.samples.astype(np.int64)
    return Needs(
        rows=Rows(ids(slots), ids(positions)),
        chunks=chunks,
        hidden_R=hidden,
        is_choosing=chooses.astype(np.bool_),
        samples_S=samples[samples > 0],
        continued=continued,
        waits=waits,
    )
