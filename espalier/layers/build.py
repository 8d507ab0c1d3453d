"""What every layer is built with, passed by hand: where its weights live and who shares them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from espalier.distributed.group import Group
from espalier.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Build:
    dtype: torch.dtype
    device: torch.device
    group: Group

    def share(self, size: int, what: str) -> int:
        """This rank's part of `size`, which must divide evenly."""
        if size % self.group.size:
            raise ConfigError(
                f"{what} ({size}) cannot be split over {self.group.size} tensor-parallel ranks",
                hint=f"use a tensor-parallel size that divides {size}",
            )
        return size // self.group.size
