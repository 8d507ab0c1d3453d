"""The product of rows with a weight, whose result for a row does not depend on the other rows.

A CPU's matrix libraries choose their loops by the size of the product: one row is a matrix-vector
product that sums in another order than a full tile does, a tile's ragged edge may do so too, and a
product of few numbers does not reach the library at all. A token would then get other bits alone
than in a batch. So rows are padded to whole tiles, and weights that are very small to a least size;
then every row takes the one path of a full tile.

Measured on AVX-512 machines with 1 to 3 threads. MKL (float32): rows must be a multiple of 4, and
outputs at least 12, or a row's place in its tile matters. oneDNN (bfloat16, float16): torch does not
ask it for products of 4096 multiplications or fewer. 8 rows is the widest edge of a tile that we
know of. The padding costs nothing from 8 rows on, nothing measurable in bfloat16, and at one row
of float32 the step from a matrix-vector to a matrix product (a factor of about 2).

Shapes: T rows, D inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.kernels.op import Case, Op

ROWS = 8
LEAST_OUTPUTS, LEAST_INPUTS = 16, 64


def linear_reference(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`; each row's result is a function of that row alone."""
    rows, (outputs, inputs) = len(x_TD), weight_OD.shape
    right, below = max(0, LEAST_INPUTS - inputs), max(0, LEAST_OUTPUTS - outputs)
    if right or below:
        weight_OD = F.pad(weight_OD, (0, right, 0, below))
        bias_O = None if bias_O is None else F.pad(bias_O, (0, below))
    missing = -rows % ROWS
    if right or missing:
        x_TD = F.pad(x_TD, (0, right, 0, missing))
    return F.linear(x_TD, weight_OD, bias_O)[:rows, :outputs]


def vendor_linear(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """The library's own way: what a GPU takes, where padding would promise nothing."""
    return F.linear(x_TD, weight_OD, bias_O)


def _cases() -> Iterator[Case]:
    shapes = {
        "one row": (1, 64, 128),
        "odd": (3, 100, 37),
        "few": (5, 7, 3),
        "no rows": (0, 64, 64),
        "tile": (8, 96, 64),
    }
    for (name, shape), dtype in product(shapes.items(), (torch.float32, torch.bfloat16)):
        yield Case(
            f"{name}, {dtype}", partial(_arguments, shape, dtype), 8 * torch.finfo(dtype).eps
        )


def _arguments(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    t, d, o = shape
    weight_OD = torch.randn(o, d, dtype=dtype) / d**0.5
    return torch.randn(t, d, dtype=dtype), weight_OD, torch.randn(o, dtype=dtype)


linear = Op(
    linear_reference,
    fast={"vendor": "espalier.kernels.linear:vendor_linear"},
    cases=_cases,
)
