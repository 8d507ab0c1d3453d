"""The attention backends, by name: each is made once, with the pools of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from espalier.attention.base import AttentionBackend
from espalier.registry import Registry

MakeBackend: TypeAlias = Callable[[Sequence[Tensor]], AttentionBackend]

BACKENDS: Registry[MakeBackend] = Registry(
    "attention backend", {"reference": "espalier.attention.reference:ReferenceBackend"}
)
