"""Token embedding and output head, their vocabulary split over the ranks.

The vocabulary is padded up to a multiple of the ranks; rows past its end are zero and are met by
nothing. The two have one layout, so that a head can be the embedding's own weight.

Shapes: T tokens, R rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.kernels.linear import linear
from espalier.layers.build import Build


class VocabEmbedding(nn.Module):
    """Rows of `vocabulary` tokens, of which each rank holds a range."""

    def __init__(self, vocabulary: int, size: int, build: Build) -> None:
        super().__init__()
        self.group = build.group
        self.vocabulary = vocabulary
        self.rows = -(-vocabulary // build.group.size)
        weight = torch.zeros(self.rows, size, dtype=build.dtype, device=build.device)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, tokens_T: Tensor) -> Tensor:
        if self.group.size == 1:
            return F.embedding(tokens_T, self.weight)
        local_T = tokens_T - self.group.rank * self.rows
        is_here_T = (local_T >= 0) & (local_T < self.rows)
        found_TD = F.embedding(local_T.where(is_here_T, 0), self.weight)
        return self.group.all_reduce(found_TD.masked_fill(~is_here_T[:, None], 0))

    def shard(self, whole: Tensor, parameter: str = "weight", part: str = "") -> Tensor:
        """This rank's rows of the checkpoint's."""
        del parameter, part
        return _rows_of_rank(whole, self.rows, self.group.rank)


class LMHead(nn.Module):
    """Logits of all tokens, whole on every rank and in float32."""

    def __init__(
        self, vocabulary: int, size: int, build: Build, *, tied_to: VocabEmbedding | None = None
    ) -> None:
        super().__init__()
        self.group = build.group
        self.vocabulary = vocabulary
        self.rows = -(-vocabulary // build.group.size)
        if tied_to is None:
            weight = torch.zeros(self.rows, size, dtype=build.dtype, device=build.device)
            self.weight = nn.Parameter(weight, requires_grad=False)
        else:
            self.weight = tied_to.weight

    def forward(self, hidden_RD: Tensor) -> Tensor:
        local_RV = linear(hidden_RD, self.weight).float()
        return self.group.all_gather(local_RV, dim=-1)[:, : self.vocabulary]

    def shard(self, whole: Tensor, parameter: str = "weight", part: str = "") -> Tensor:
        """This rank's rows of the checkpoint's."""
        del parameter, part
        return _rows_of_rank(whole, self.rows, self.group.rank)


def _rows_of_rank(whole: Tensor, rows: int, rank: int) -> Tensor:
    mine = whole[rank * rows : (rank + 1) * rows]
    missing = rows - len(mine)
    return F.pad(mine, (0, 0, 0, missing)) if missing else mine
