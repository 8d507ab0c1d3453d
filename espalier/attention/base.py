"""What a model asks of attention, and what an attention backend must do.

Shapes: T tokens of the step, C chunks, P pages of the longest, N query heads, K key-value heads,
H head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """The geometry of one attention layer, as this rank sees it."""

    layer: int
    query: int
    key_value: int
    size: int
    scale: float
    window: int | None = None  # a token sees itself and the window - 1 before it
    soft_cap: float | None = None  # scores become cap * tanh(score / cap)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a step stand, on the device and (lists) on the host.

    Chunk c is tokens [offsets[c], offsets[c + 1]) of the step and positions [starts[c], ends[c])
    of its request. Position p's keys and values are in slot `tables_CP[c, p // page_size] *
    page_size + p % page_size` of the pool; `slots_T` is that for the step's own tokens.
    """

    offsets: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]
    tables_CP: Tensor  # int32
    slots_T: Tensor  # int64
    page_size: int


class Attention(Protocol):
    """Attention over the paged cache, prepared for one step."""

    def __call__(self, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, heads: Heads) -> Tensor:
        """Store all of the step's `k` and `v`, then return each token's attention, of `q`'s shape.

        All is stored before any is read: a chunk may stand on pages that another chunk of the same
        step fills.
        """
        ...


class AttentionBackend(Protocol):
    """Made once, with the pools: for each layer keys and values, [2, slots, K, H]."""

    def prepare(self, layout: Layout) -> Attention: ...


@dataclass(frozen=True, slots=True)
class Step:
    """The tensors of one forward pass, handed from layer to layer."""

    tokens_T: Tensor  # int64
    positions_T: Tensor  # int64
    attend: Attention
