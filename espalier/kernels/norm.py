"""RMS normalisation, alone and fused with the residual addition.

Two families: the weight multiplies the normalised row (Llama and most others), or it is an offset
from one and multiplies before the row is rounded (Gemma).

Shapes: T tokens, D hidden size (the last dimension; there may be more before it).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from espalier.kernels.op import Case, Op


def rms_norm_reference(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Each row at unit root mean square, times `weight`; the mean is taken in float32."""
    return _unit(x_TD, eps).to(x_TD.dtype) * weight_D


def add_rms_norm_reference(
    x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The normalised sum of `x` and `residual`, and the sum as the next residual."""
    residual_TD = x_TD + residual_TD
    return rms_norm_reference(residual_TD, weight_D, eps), residual_TD


def offset_rms_norm_reference(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Each row at unit root mean square, times `1 + weight`, all in float32."""
    return (_unit(x_TD, eps) * (1.0 + weight_D.float())).to(x_TD.dtype)


def add_offset_rms_norm_reference(
    x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The normalised sum of `x` and `residual`, and the sum as the next residual."""
    residual_TD = x_TD + residual_TD
    return offset_rms_norm_reference(residual_TD, weight_D, eps), residual_TD


def _unit(x_TD: Tensor, eps: float) -> Tensor:
    x = x_TD.float()
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


SHAPES = {"one row": (1, 64), "odd width": (3, 100), "no rows": (0, 64), "wide": (7, 5120)}


def _cases() -> Iterator[Case]:
    for (name, shape), dtype in product(SHAPES.items(), (torch.float32, torch.bfloat16)):
        yield Case(f"{name}, {dtype}", partial(_arguments, *shape, dtype), _tolerance(dtype))


def _add_cases() -> Iterator[Case]:
    for (name, shape), dtype in product(SHAPES.items(), (torch.float32, torch.bfloat16)):
        yield Case(f"{name}, {dtype}", partial(_add_arguments, *shape, dtype), _tolerance(dtype))


def _tolerance(dtype: torch.dtype) -> float:
    """Sums are taken in another order, and the result is rounded twice."""
    return 4 * torch.finfo(dtype).eps


def _arguments(t: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    return torch.randn(t, d, dtype=dtype), torch.randn(d, dtype=dtype), 1e-6


def _add_arguments(t: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float]:
    return torch.randn(t, d, dtype=dtype), *_arguments(t, d, dtype)


rms_norm = Op(rms_norm_reference, fast={}, cases=_cases)
add_rms_norm = Op(add_rms_norm_reference, fast={}, cases=_add_cases)
offset_rms_norm = Op(offset_rms_norm_reference, fast={}, cases=_cases)
add_offset_rms_norm = Op(add_offset_rms_norm_reference, fast={}, cases=_add_cases)
