"""The product of rows with a weight, whose result for a row does not depend on the other rows.

A CPU's matrix libraries choose their loops by the number of rows: one row is a matrix-vector
product that sums in another order than a full tile does, and a tile's ragged edge may do so too. A
token would then get other bits alone than in a batch. With the rows padded to whole tiles every row
takes the one path of a full tile. Measured with MKL (float32) and oneDNN (bfloat16, float16) on
AVX-512 machines, 1 to 3 threads: any multiple of 4 is enough; 8 is the widest tile edge of the
kernels we know. It costs nothing from 8 rows on, nothing measurable in bfloat16, and at one row
of float32 the step from a matrix-vector to a matrix product (about a factor 2).

Shapes: T rows, D inputs, O outputs (two at least: one alone is a dot product to the library).
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


def linear_reference(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`; each row's result is a function of that row alone."""
    rows = len(x_TD)
    missing = -rows % ROWS
    if missing == 0:
        return F.linear(x_TD, weight_OD, bias_O)
    return F.linear(F.pad(x_TD, (0, 0, 0, missing)), weight_OD, bias_O)[:rows]


def vendor_linear(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """The library's own way: what a GPU takes, where padding would promise nothing."""
    return F.linear(x_TD, weight_OD, bias_O)


def _cases() -> Iterator[Case]:
    shapes = {
        "one row": (1, 64, 128),
        "odd": (3, 100, 37),
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
