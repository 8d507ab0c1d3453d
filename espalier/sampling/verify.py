"""Which of a step's draws stand.

A chunk with drafts has a row for each and one more; row j draws the target's token with its own
position's noise, as it would without drafts. While a draw equals the draft at its place, the next
row saw the true past and its draw counts too. So drafts never change the text.

S chunks, R rows: the rows of a chunk stand together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espalier.protocol.step import OK


@dataclass(frozen=True, slots=True)
class Verdict:
    stands_R: Tensor  # bool: the row's token is part of the text
    counts_S: Tensor  # int64: how many of a chunk's are
    status_S: Tensor  # int32: OK wherever there is one


def verdict(tokens_R: Tensor, status_R: Tensor, drafts_R: Tensor, samples_S: Tensor) -> Verdict:
    """`drafts_R` is the draft at each row's place, -1 at the last of a chunk.

    A row that is not OK ends its chunk before it: what stood before it was sound, and is kept.
    """
    first_S = samples_S.cumsum(0) - samples_S
    chunk_R = torch.repeat_interleave(samples_S)
    is_good_R = status_R == OK
    ends_R = (~is_good_R | (tokens_R != drafts_R)).long()
    before_R = ends_R.cumsum(0) - ends_R  # rows before this one, of any chunk, that end theirs
    stands_R = is_good_R & (before_R == before_R[first_S][chunk_R])
    counts_S = torch.zeros_like(samples_S).index_add_(0, chunk_R, stands_R.long())
    return Verdict(stands_R, counts_S, torch.where(counts_S > 0, OK, status_R[first_S]))
