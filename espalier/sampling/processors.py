"""What may change a row's logits before its token is chosen, one class a wish.

A processor is made when its request joins, acts on one row in place, and knows of the row only its
own past: so no row depends on another, and a request without wishes costs nothing. They act in the
order of `processors_for`; the grammar's mask comes after them all.

V vocabulary, L tokens of the past.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from espalier.protocol.sampling import Sampling

IMPOSSIBLE = float("-inf")


class Tokens(Protocol):
    """The tokens that stand at positions [start, end) of the request in a slot, int64."""

    def __call__(self, slot: int, start: int, end: int) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Past:
    """All that came before the token that a row chooses, which will stand at `position`.

    Drafts before it are its past too, and count as output.
    """

    read: Tokens
    slot: int
    position: int
    prompt_length: int

    def since(self, start: int) -> Tensor:
        return self.read(self.slot, max(start, 0), self.position)


class Processor(Protocol):
    def __call__(self, logits_V: Tensor, past: Past) -> None:
        """Change the row's logits in place."""
        ...


def processors_for(
    sampling: Sampling, vocabulary: int, device: torch.device
) -> tuple[Processor, ...]:
    """What a request asks for, in the order in which it acts."""
    made: list[Processor] = []
    if sampling.frequency_penalty or sampling.presence_penalty:
        made.append(OutputPenalties(sampling.frequency_penalty, sampling.presence_penalty))
    if sampling.repetition_penalty != 1.0:
        made.append(RepetitionPenalty(sampling.repetition_penalty))
    if sampling.bias:
        pairs = [(token, value) for token, value in sampling.bias if 0 <= token < vocabulary]
        values = torch.tensor([value for _, value in pairs], dtype=torch.float32, device=device)
        made.append(Bias(_ids((token for token, _ in pairs), vocabulary, device), values))
    if sampling.allowed:
        made.append(AllowedOnly(_ids(sampling.allowed, vocabulary, device)))
    if sampling.min_tokens and sampling.stop:
        made.append(LeastLength(sampling.min_tokens, _ids(sampling.stop, vocabulary, device)))
    if sampling.bad_words:
        # The shortest first: a single token needs no look at the past.
        words = sorted({word for word in sampling.bad_words if word}, key=len)
        made.append(BadWords(tuple(words)))
    return tuple(made)


def _ids(tokens: Iterable[int], vocabulary: int, device: torch.device) -> Tensor:
    """Those that have a logit: a checkpoint may name stop tokens that its head does not reach."""
    inside = [token for token in tokens if 0 <= token < vocabulary]
    return torch.tensor(inside, dtype=torch.int64, device=device)


@dataclass(frozen=True, slots=True)
class OutputPenalties:
    """Less for what the output holds: `frequency` for each time, `presence` once."""

    frequency: float
    presence: float

    def __call__(self, logits_V: Tensor, past: Past) -> None:
        tokens, counts = past.since(past.prompt_length).unique(return_counts=True)
        logits_V[tokens] -= self.frequency * counts.to(logits_V.dtype) + self.presence


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Less for what prompt or output hold: positive logits are divided, negative multiplied."""

    penalty: float

    def __call__(self, logits_V: Tensor, past: Past) -> None:
        tokens = past.since(0).unique()
        logits = logits_V[tokens]
        logits_V[tokens] = torch.where(logits > 0, logits / self.penalty, logits * self.penalty)


@dataclass(frozen=True, slots=True)
class Bias:
    tokens: Tensor
    values: Tensor

    def __call__(self, logits_V: Tensor, past: Past) -> None:
        del past
        # One token may be named twice, and then both count: no plain indexed addition.
        logits_V.index_add_(0, self.tokens, self.values)


@dataclass(frozen=True, slots=True)
class AllowedOnly:
    tokens: Tensor

    def __call__(self, logits_V: Tensor, past: Past) -> None:
        del past
        allowed = logits_V[self.tokens]
        logits_V.fill_(IMPOSSIBLE)
        logits_V[self.tokens] = allowed


@dataclass(frozen=True, slots=True)
class LeastLength:
    """Until the output has `count` tokens, none that ends it."""

    count: int
    stops: Tensor

    def __call__(self, logits_V: Tensor, past: Past) -> None:
        if past.position - past.prompt_length < self.count:
            logits_V[self.stops] = IMPOSSIBLE


@dataclass(frozen=True, slots=True)
class BadWords:
    """No sequence of these is ever completed, wherever it began, the prompt included."""

    words: tuple[tuple[int, ...], ...]

    def __call__(self, logits_V: Tensor, past: Past) -> None:
        longest = len(self.words[-1]) - 1
        tail = tuple(past.since(past.position - longest).tolist()) if longest else ()
        for *before, last in self.words:
            begun = tail[len(tail) - len(before) :] if before else ()
            if begun == tuple(before) and last < len(logits_V):
                logits_V[last] = IMPOSSIBLE
