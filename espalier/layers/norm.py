"""RMS normalisation as layers, with the residual stream threaded through them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from espalier.kernels.norm import (
    add_offset_rms_norm,
    add_rms_norm,
    offset_rms_norm,
    rms_norm,
)
from espalier.layers.build import Build


class RMSNorm(nn.Module):
    """The weight multiplies the normalised row; over the last dimension, whatever stands before."""

    def __init__(self, size: int, eps: float, build: Build) -> None:
        super().__init__()
        weight = torch.ones(size, dtype=build.dtype, device=build.device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        return rms_norm(x_TD, self.weight, self.eps)

    def add(self, x_TD: Tensor, residual_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise `x + residual`; returns that, and the sum."""
        return add_rms_norm(x_TD, residual_TD, self.weight, self.eps)


class OffsetRMSNorm(nn.Module):
    """Gemma's: the weight is an offset from one."""

    def __init__(self, size: int, eps: float, build: Build) -> None:
        super().__init__()
        weight = torch.zeros(size, dtype=build.dtype, device=build.device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        return offset_rms_norm(x_TD, self.weight, self.eps)

    def add(self, x_TD: Tensor, residual_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise `x + residual`; returns that, and the sum."""
        return add_offset_rms_norm(x_TD, residual_TD, self.weight, self.eps)
