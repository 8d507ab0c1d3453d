"""How a linear layer keeps its weight and multiplies by it: the seam for quantized weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor


class LinearMethod(Protocol):
    """Makes the parameters of a layer, and its product. It holds nothing of its own.

    Parameters have outputs as their first dimension and inputs as their last, if they have them:
    a layer cuts them over ranks and projections by that.
    """

    def parameters(
        self, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device
    ) -> Mapping[str, Tensor]:
        """The parameters that a checkpoint fills, by name."""
        ...

    def product(
        self, parameter: Callable[[str], Tensor], x_TD: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        """`x @ weight.T + bias`; `parameter` gives those made above, by name."""
        ...
