"""Gated activations: the first half of each row, activated, times the second half.

They are written with exp, tanh and erf in float32, not with the library's silu and gelu: those take
another path at the end of an array or where two threads meet, and a token's bits would depend on
where it stands in the batch. exp, tanh and erf do not.

Shapes: T tokens, I inner size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from espalier.kernels.op import Case, Op


def silu_and_mul_reference(x_T2I: Tensor) -> Tensor:
    """`silu(a) * b` of rows (a, b); silu is taken in float32 and rounded, then multiplied."""
    gate, up = x_T2I.chunk(2, dim=-1)
    a = gate.float()
    return (a / (1.0 + torch.exp(-a))).to(up.dtype) * up


def gelu_and_mul_reference(x_T2I: Tensor) -> Tensor:
    """`gelu(a) * b` of rows (a, b), by the error function."""
    gate, up = x_T2I.chunk(2, dim=-1)
    a = gate.float()
    return (0.5 * a * (1.0 + torch.erf(a * math.sqrt(0.5)))).to(up.dtype) * up


def gelu_tanh_and_mul_reference(x_T2I: Tensor) -> Tensor:
    """`gelu(a) * b` of rows (a, b), by the approximation with tanh."""
    gate, up = x_T2I.chunk(2, dim=-1)
    a = gate.float()
    inner = math.sqrt(2.0 / math.pi) * (a + 0.044715 * (a * a * a))
    return (0.5 * a * (1.0 + torch.tanh(inner))).to(up.dtype) * up


def _cases() -> Iterator[Case]:
    shapes = {"one row": (1, 64), "odd width": (3, 37), "no rows": (0, 64), "wide": (7, 5632)}
    for (name, shape), dtype in product(shapes.items(), (torch.float32, torch.bfloat16)):
        yield Case(
            f"{name}, {dtype}", partial(_arguments, *shape, dtype), 4 * torch.finfo(dtype).eps
        )


def _arguments(t: int, i: int, dtype: torch.dtype) -> tuple[Tensor]:
    return (3.0 * torch.randn(t, 2 * i, dtype=dtype),)


silu_and_mul = Op(silu_and_mul_reference, fast={}, cases=_cases)
gelu_and_mul = Op(gelu_and_mul_reference, fast={}, cases=_cases)
gelu_tanh_and_mul = Op(gelu_tanh_and_mul_reference, fast={}, cases=_cases)
