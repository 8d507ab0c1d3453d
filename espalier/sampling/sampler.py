"""Logits to tokens. All in float32, and no row ever depends on another.

In order: the request's processors, the grammar's mask, then the likeliest token, or a draw:
temperature, top-k, top-p, min-p, and the race of `kernels/sampling.py`. A row that holds what is
not a number, or is left with nothing to choose, says so in its status and harms no other.

Shapes: R rows, V vocabulary, W = V / 32 words, rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from espalier.kernels.sampling import keep, race, row_keys
from espalier.protocol.arrays import Ids
from espalier.protocol.step import NOT_A_NUMBER, NOTHING_POSSIBLE, OK
from espalier.sampling.batch import SamplingTable
from espalier.sampling.processors import IMPOSSIBLE, Past, Tokens

Masks = npt.NDArray[np.int32]  # [rows, W], bit v % 32 of word v / 32 set: token v is possible
EVERYTHING = -1  # a word of such a mask


@dataclass(frozen=True, slots=True)
class Rows:
    """Whose rows these are, and where the tokens that they choose will stand."""

    slots: Ids
    positions: Ids

    def __getitem__(self, chosen: slice | npt.NDArray[np.intp | np.bool_]) -> Rows:
        return Rows(self.slots[chosen], self.positions[chosen])


@dataclass(frozen=True, slots=True)
class Drawn:
    tokens_R: Tensor  # int64; of no meaning where the status is not OK
    status_R: Tensor  # int32


@dataclass(frozen=True, slots=True)
class Sampler:
    table: SamplingTable
    read: Tokens

    def __call__(self, logits_RV: Tensor, rows: Rows, masks: Masks | None = None) -> Drawn:
        """A token for each row, and whether it is one. `logits_RV` (float32) is left as it was."""
        is_number_R = logits_RV.amax(dim=-1) < torch.inf  # not so for NaN, which is the largest
        logits_RV = self._processed(logits_RV, rows, masks)
        best_R, tokens_R = logits_RV.max(dim=-1)
        status_R = torch.full_like(tokens_R, OK, dtype=torch.int32)
        status_R[best_R == IMPOSSIBLE] = NOTHING_POSSIBLE
        status_R[~(is_number_R & (best_R < torch.inf))] = NOT_A_NUMBER
        random = np.flatnonzero(self.table.is_random[rows.slots])
        if len(random):
            at = torch.from_numpy(random).to(tokens_R.device)
            below_RV = logits_RV[at] - best_R[at, None]
            # What follows need not know of rows that failed: all their tokens become equal.
            below_RV.masked_fill_((status_R[at] != OK)[:, None], 0.0)
            tokens_R[at] = self._drawn(below_RV, rows[random])
        return Drawn(tokens_R, status_R)

    def _processed(self, logits_RV: Tensor, rows: Rows, masks: Masks | None) -> Tensor:
        """The logits as the requests and their grammars want them; a copy, if any wants anything."""
        table = self.table
        wanting = [row for row, slot in enumerate(rows.slots.tolist()) if slot in table.processors]
        masked = masked_rows(masks)
        if not wanting and not masked:
            return logits_RV
        logits_RV = logits_RV.clone()
        for row in wanting:
            slot = int(rows.slots[row])
            past = Past(self.read, slot, int(rows.positions[row]), int(table.prompt_lengths[slot]))
            for process in table.processors[slot]:
                process(logits_RV[row], past)
        for row, words_W in masked:
            possible_V = unpacked(words_W, logits_RV.shape[-1], logits_RV.device)
            logits_RV[row].masked_fill_(~possible_V, IMPOSSIBLE)
        return logits_RV

    def _drawn(self, below_RV: Tensor, rows: Rows) -> Tensor:
        """Tokens drawn at random; `below_RV` are logits less their row's largest, so at most 0.

        Dividing after the subtraction lets no temperature overflow.
        """
        draws = self.table.draws(rows.slots)
        weights_RV = below_RV.div_(draws.temperature_R[:, None]).exp_()
        filtered = np.flatnonzero(self.table.is_filtered[rows.slots])
        if len(filtered):
            at = torch.from_numpy(filtered).to(weights_RV.device)
            weights_RV[at] = keep(
                weights_RV[at], draws.top_k_R[at], draws.top_p_R[at], draws.min_p_R[at]
            )
        positions_R = torch.from_numpy(rows.positions.astype(np.int64)).to(weights_RV.device)
        return race(weights_RV, row_keys(draws.seed_R, draws.sample_R, positions_R))


def masked_rows(masks: Masks | None) -> list[tuple[int, npt.NDArray[np.int32]]]:
    """The rows whose masks forbid anything."""
    if masks is None:
        return []
    return [(row, masks[row]) for row in np.flatnonzero((masks != EVERYTHING).any(-1)).tolist()]


def unpacked(words_W: npt.NDArray[np.int32], size: int, device: torch.device) -> Tensor:
    """A mask's first `size` bits, lowest bit of each word first, as booleans."""
    octets = np.ascontiguousarray(words_W, dtype="<i4").view(np.uint8)
    bits = np.unpackbits(octets, count=size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).to(device)
