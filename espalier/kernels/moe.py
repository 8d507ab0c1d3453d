"""Mixtures of experts: which experts a token goes to, and the products, grouped by expert.

Shapes: T tokens, E experts, X experts per token, R rows sorted by expert, D inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from espalier.kernels.linear import linear
from espalier.kernels.op import Case, Op


def route_top_k_reference(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The likeliest experts of each token and their shares of the softmax over all, in float32."""
    shares_TX, experts_TX = torch.softmax(logits_TE.float(), dim=-1).topk(top_k, dim=-1)
    return shares_TX, experts_TX


def grouped_linear_reference(x_RD: Tensor, weight_EOD: Tensor, counts_E: Tensor) -> Tensor:
    """Each row times its expert's weight; the first `counts[0]` rows are expert 0's, and so on."""
    out_RO = x_RD.new_empty(len(x_RD), weight_EOD.shape[1])
    start = 0
    for expert, count in enumerate(counts_E.tolist()):
        if count:
            end = start + count
            out_RO[start:end] = linear(x_RD[start:end], weight_EOD[expert])
            start = end
    return out_RO


def _route_cases() -> Iterator[Case]:
    for t, e, k in ((1, 4, 2), (7, 60, 4), (0, 8, 2), (3, 8, 8)):
        yield Case(f"{t} tokens, {k} of {e}", partial(_route_arguments, t, e, k), 1e-6)


def _route_arguments(t: int, e: int, k: int) -> tuple[Tensor, int]:
    return torch.randn(t, e), k


def _grouped_cases() -> Iterator[Case]:
    for counts in ([1, 0, 3], [0, 0, 0], [16, 5, 8]):
        yield Case(f"counts {counts}", partial(_grouped_arguments, counts), 1e-5)


def _grouped_arguments(counts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    weight_EOD = torch.randn(len(counts), 48, 64) / 8
    return torch.randn(sum(counts), 64), weight_EOD, torch.tensor(counts)


route_top_k = Op(route_top_k_reference, fast={}, cases=_route_cases)
grouped_linear = Op(grouped_linear_reference, fast={}, cases=_grouped_cases)
