"""Log probabilities of tokens, likeliest tokens and listed tokens, from logits as the model gave them.

They are of the raw distribution: before temperature, penalties and masks, in float32. Each row is
worked out by itself, and ties among the likeliest go to the lower id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from espalier.kernels.sampling import largest
from espalier.protocol.arrays import Floats, Ids
from espalier.protocol.messages import Logprobs
from espalier.protocol.sampling import LogprobsWanted


@dataclass(frozen=True, slots=True)
class Score:
    """One row's log probabilities, on the device until they are wanted."""

    chunk: int
    position: int  # where the token that is scored stands
    token: int | Tensor
    value: Tensor
    top_tokens: Tensor
    top_values: Tensor
    listed: tuple[int, ...]
    listed_values: Tensor


def score(
    logits_V: Tensor, wanted: LogprobsWanted, *, chunk: int, position: int, token: int | Tensor
) -> Score:
    logprobs_V = logits_V.float().log_softmax(dim=-1)
    top = largest(logprobs_V, wanted.top)
    listed = torch.tensor(wanted.listed, dtype=torch.int64, device=logits_V.device)
    return Score(
        chunk=chunk,
        position=position,
        token=token,
        value=logprobs_V[token].clone(),  # not a view, which would keep the whole row
        top_tokens=top,
        top_values=logprobs_V[top],
        listed=wanted.listed,
        listed_values=logprobs_V[listed],
    )


def columns(scores: Iterable[Score]) -> Logprobs | None:
    """Scores as a message has them, by chunk and position; None if there are none."""
    rows = sorted(scores, key=lambda row: (row.chunk, row.position))
    if not rows:
        return None
    return Logprobs(
        owners=np.array([row.chunk for row in rows], np.int64),
        positions=np.array([row.position for row in rows], np.int32),
        tokens=np.array([int(row.token) for row in rows], np.int32),
        values=np.array([float(row.value) for row in rows], np.float32),
        top_counts=np.array([len(row.top_tokens) for row in rows], np.int32),
        top_tokens=_whole([row.top_tokens for row in rows]),
        top_values=_reals([row.top_values for row in rows]),
        listed_counts=np.array([len(row.listed) for row in rows], np.int32),
        listed_tokens=np.array([token for row in rows for token in row.listed], np.int32),
        listed_values=_reals([row.listed_values for row in rows]),
    )


def _whole(parts: list[Tensor]) -> Ids:
    return torch.cat(parts).cpu().numpy().astype(np.int32)


def _reals(parts: list[Tensor]) -> Floats:
    return torch.cat(parts).float().cpu().numpy()
