"""Rotary position embedding, in half rotation: dimension i turns with dimension i + R.

Shapes: T tokens, N heads, H head size, R rotated pairs; 2R <= H, the rest passes as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from espalier.kernels.op import Case, Op


def rotary_reference(x_TNH: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Each head's first 2R dimensions turned by its token's angles; in float32, rounded once."""
    pairs = cos_TR.shape[-1]
    cos, sin = cos_TR[:, None, :], sin_TR[:, None, :]
    a, b = x_TNH[..., :pairs].float(), x_TNH[..., pairs : 2 * pairs].float()
    turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x_TNH.dtype)
    if 2 * pairs == x_TNH.shape[-1]:
        return turned
    return torch.cat((turned, x_TNH[..., 2 * pairs :]), dim=-1)


def _cases() -> Iterator[Case]:
    shapes = {"all": (5, 4, 64, 32), "a part": (3, 2, 80, 16), "no tokens": (0, 4, 64, 32)}
    for (name, shape), dtype in product(shapes.items(), (torch.float32, torch.bfloat16)):
        yield Case(
            f"{name}, {dtype}", partial(_arguments, shape, dtype), 4 * torch.finfo(dtype).eps
        )


def _arguments(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    t, n, h, r = shape
    angles_TR = 10.0 * torch.randn(t, r)
    return torch.randn(t, n, h, dtype=dtype), angles_TR.cos(), angles_TR.sin()


rotary = Op(rotary_reference, fast={}, cases=_cases)
