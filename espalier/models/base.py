"""What the worker asks of a model. R rows of hidden states, T tokens, D hidden size, V vocabulary."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from espalier.attention.base import Heads, Step
from espalier.loading.weights import Names


class CausalLM(Protocol):
    names: Names  # how the checkpoint's names map to the model's

    def __call__(self, step: Step) -> Tensor:
        """Hidden states, [T, D]."""
        ...

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, V] in float32, whole on every rank; apart from forward, since few rows need it."""
        ...

    def heads(self) -> list[Heads]:
        """The attention layers in order, for the cache's pools."""
        ...
