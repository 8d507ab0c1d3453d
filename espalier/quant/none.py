"""Weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from espalier.kernels.linear import linear


@dataclass(frozen=True, slots=True)
class Unquantized:
    def parameters(
        self, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device
    ) -> Mapping[str, Tensor]:
        return {"weight": torch.empty(outputs, inputs, dtype=dtype, device=device)}

    def product(
        self, parameter: Callable[[str], Tensor], x_TD: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        return linear(x_TD, parameter("weight"), bias_O)
