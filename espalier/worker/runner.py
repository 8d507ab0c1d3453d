"""The two halves of a step: `forward` runs the model, `sample` turns hidden states into tokens.

Between them the scheduler may make grammar masks. The head of the model runs in blocks of rows in
`sample`, and of a block only what was asked for is kept, so a long prompt's log probabilities
need no memory in proportion to it.

D hidden size; R rows that need logits, in the batch's order; N of them choose a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from espalier.attention.base import AttentionBackend, Step
from espalier.models.base import CausalLM
from espalier.protocol.arrays import ids
from espalier.protocol.step import StepBatch, StepResult
from espalier.sampling.batch import SamplingTable
from espalier.sampling.logprobs import Score, columns, score
from espalier.sampling.sampler import Drawn, Masks, Sampler
from espalier.sampling.verify import Verdict, verdict
from espalier.worker.failures import step_guard
from espalier.worker.inputs import Inputs
from espalier.worker.needs import Needs, needs
from espalier.worker.transfer import to_device

BLOCK = 256  # rows of logits at a time


@dataclass(frozen=True, slots=True)
class Started:
    """A step between its halves."""

    batch: StepBatch
    needs: Needs
    hidden_RD: Tensor


@dataclass(frozen=True, slots=True)
class Flight:
    """A step on its way back; nothing of it need be on the host yet."""

    number: int
    tokens_N: Tensor
    verdict: Verdict
    scores: tuple[tuple[int, Score], ...]  # with the row of N each is about, or -1: a prompt's

    def wait_for_result(self) -> StepResult:
        """The one place that waits for the device."""
        stands_N = self.verdict.stands_R.cpu()
        scored = [one for row, one in self.scores if row < 0 or stands_N[row]]
        return StepResult(
            number=self.number,
            counts=ids(self.verdict.counts_S.cpu().numpy()),
            tokens=ids(self.tokens_N.cpu()[stands_N].numpy()),
            status=ids(self.verdict.status_S.cpu().numpy()),
            logprobs=columns(scored),
        )


@dataclass(slots=True)
class Runner:
    model: CausalLM
    backend: AttentionBackend
    inputs: Inputs
    table: SamplingTable

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Started:
        """Take the batch's news in, then run the model. Raises WorkerFailed."""
        with step_guard(batch.number):
            self._take(batch)
            prepared = self.inputs.prepare(batch)
            attend = self.backend.prepare(prepared.layout)
            hidden_TD = self.model(Step(prepared.tokens_T, prepared.positions_T, attend))
            wanted = needs(batch, self.table)
            # A copy of what is needed, so that the other rows can go.
            return Started(batch, wanted, hidden_TD[to_device(wanted.hidden_R, hidden_TD.device)])

    def _take(self, batch: StepBatch) -> None:
        """The order matters: a slot may be left and joined, a page be freed and filled, in one."""
        for slot in batch.leaves.tolist():
            self.table.leave(slot)
        for join in batch.joins:
            self.table.join(join)
        assert len(batch.pages) <= 1, "there is one cache group"
        for changes in batch.pages:
            self.inputs.take_pages(changes)

    @torch.inference_mode()
    def sample(self, started: Started, masks: Masks | None = None) -> Flight:
        """Choose tokens; `masks` has a row for every row that chooses. Raises WorkerFailed."""
        with step_guard(started.batch.number):
            return self._sample(started, masks)

    def _sample(self, started: Started, masks: Masks | None) -> Flight:
        wanted = started.needs
        rows_N = wanted.rows[wanted.is_choosing]
        known_R = self._known(wanted)
        drafts_N = known_R[to_device(np.flatnonzero(wanted.is_choosing), known_R.device)]
        drawn, scores = self._drawn(started, masks, known_R)
        samples_S = to_device(wanted.samples_S, known_R.device)
        found = verdict(drawn.tokens_R, drawn.status_R, drafts_N, samples_S)
        self.inputs.put(rows_N.slots, rows_N.positions, drawn.tokens_R, found.stands_R)
        return Flight(started.batch.number, drawn.tokens_R, found, tuple(scores))

    def _known(self, wanted: Needs) -> Tensor:
        """The token after each row where one was given: a prompt's next, or a draft; else -1."""
        # After a chunk's last token may come no page at all: any position does there.
        positions_R = np.where(wanted.is_last, 0, wanted.rows.positions)
        in_chunk_R = self.inputs.tokens_at(wanted.rows.slots, ids(positions_R))
        ahead_R = to_device(wanted.ahead_R, in_chunk_R.device)
        is_last_R = torch.from_numpy(wanted.is_last).to(in_chunk_R.device)
        return torch.where(is_last_R, ahead_R, in_chunk_R)

    def _drawn(
        self, started: Started, masks: Masks | None, tokens_R: Tensor
    ) -> tuple[Drawn, list[tuple[int, Score]]]:
        """All rows, block by block; `tokens_R` are those after them, so far as known."""
        wanted = started.needs
        tokens, status, scores = [], [], list[tuple[int, Score]]()
        sampler = Sampler(self.table, self.inputs.read)
        for start in range(0, len(wanted), BLOCK):
            block = slice(start, start + BLOCK)
            logits_BV = self.model.logits(started.hidden_RD[block])
            choosing = np.flatnonzero(wanted.is_choosing[block])
            first = int(wanted.is_choosing[:start].sum())
            if len(choosing):
                rows_N = wanted.rows[block][choosing]
                mask_NW = None if masks is None else masks[first : first + len(choosing)]
                logits_NV = _rows(logits_BV, choosing)
                drawn = sampler(logits_NV, rows_N, mask_NW)
                tokens.append(drawn.tokens_R)
                status.append(drawn.status_R)
                tokens_R[to_device(choosing + start, tokens_R.device)] = drawn.tokens_R
            scores += self._scores(wanted, logits_BV, tokens_R, start)
        if not tokens:
            none = tokens_R[:0]
            return Drawn(none, none.int()), scores
        return Drawn(torch.cat(tokens), torch.cat(status)), scores

    def _scores(
        self, wanted: Needs, logits_BV: Tensor, tokens_R: Tensor, start: int
    ) -> list[tuple[int, Score]]:
        """Log probabilities of a block's rows, of those whose requests want them."""
        made = list[tuple[int, Score]]()
        if not self.table.logprobs:
            return made
        for at, logits_V in enumerate(logits_BV):
            row = start + at
            asked = self.table.logprobs.get(int(wanted.rows.slots[row]))
            if asked is None:
                continue
            one = score(
                logits_V,
                asked,
                chunk=int(wanted.chunks[row]),
                position=int(wanted.rows.positions[row]),
                token=tokens_R[row],
            )
            made.append((int(wanted.ordinals[row]), one))
        return made


def _rows(logits_BV: Tensor, chosen: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Tensor:
    """Some rows of a block; the block itself where those are all."""
    if len(chosen) == len(logits_BV):
        return logits_BV
    return logits_BV[to_device(chosen, logits_BV.device)]
