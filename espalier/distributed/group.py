"""The ranks of one kind of parallelism, and what they do together. `Alone` is a group of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Group(Protocol):
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of every rank's `x`, the same on each."""
        ...

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """Every rank's `x`, in order of rank, joined along `dim`."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A group of one."""

    rank: int = 0
    size: int = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        del dim
        return x
