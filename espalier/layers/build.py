"""What every layer is built with, passed by hand: where its weights live and who shares them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from espalier.distributed.group import Group
from espalier.errors import ConfigError
from espalier.quant.base import LinearMethod
from espalier.quant.none import Unquantized


@dataclass(frozen=True, slots=True)
class Build:
    dtype: torch.dtype
    device: torch.device
    group: Group
    linear: LinearMethod = field(default_factory=Unquantized)
    context_length: int = 0  # positions a request may have; 0: what the checkpoint allows

    def share(self, size: int, what: str) -> int:
        """This rank's part of `size`, which must divide evenly."""
        if size % self.group.size:
            raise ConfigError(
                f"{what} ({size}) cannot be split over {self.group.size} tensor-parallel ranks",
                hint=f"use a tensor-parallel size that divides {size}",
            )
        return size // self.group.size

    def sharers(self, heads: int) -> int:
        """How many ranks hold the same key-value head: 1, unless there are fewer than ranks."""
        if heads >= self.group.size:
            return 1
        if self.group.size % heads:
            raise ConfigError(
                f"{heads} key-value heads cannot be shared by {self.group.size} ranks",
                hint=f"use a tensor-parallel size that {heads} divides, or that divides {heads}",
            )
        return self.group.size // heads


@runtime_checkable
class Sharded(Protocol):
    """A layer that holds only its rank's part of its parameters; what the loader asks of it."""

    def shard(self, whole: Tensor, parameter: str = "weight", part: str = "") -> Tensor:
        """This rank's part of a parameter, or of one `part` of it, as the checkpoint has it."""
        ...
