"""A mixture of experts: the router, and gated MLPs of which each token visits a few.

Every rank holds a slice of every expert (the inner size is split), so that no token has to travel;
the sum over the ranks is taken once for all experts of a token.

Shapes: T tokens, E experts, X experts per token, R = T * X rows sorted by expert, D hidden size,
I inner size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from espalier.kernels.activation import silu_and_mul
from espalier.kernels.moe import grouped_linear, route_top_k
from espalier.layers.build import Build
from espalier.layers.linear import Linear


class Experts(nn.Module):
    """The experts' weights, stacked. Parameters: `gate_up_proj` [E, 2I, D], `down_proj` [E, D, I]."""

    def __init__(
        self,
        experts: int,
        hidden: int,
        inner: int,
        build: Build,
        *,
        activation: Callable[[Tensor], Tensor] = silu_and_mul,
    ) -> None:
        super().__init__()
        self.group = build.group
        self.experts = experts
        self.activation = activation
        local = build.share(inner, "the inner size of an expert")
        gate_up = torch.empty(experts, 2 * local, hidden, dtype=build.dtype, device=build.device)
        down = torch.empty(experts, hidden, local, dtype=build.dtype, device=build.device)
        self.gate_up_proj = nn.Parameter(gate_up, requires_grad=False)
        self.down_proj = nn.Parameter(down, requires_grad=False)

    def forward(self, x_TD: Tensor, shares_TX: Tensor, experts_TX: Tensor) -> Tensor:
        """The sum of each token's experts, by share. Not yet summed over the ranks."""
        top_k = experts_TX.shape[1]
        order_R = experts_TX.flatten().argsort(stable=True)
        counts_E = torch.bincount(experts_TX.flatten(), minlength=self.experts)
        inner = self.activation(grouped_linear(x_TD[order_R // top_k], self.gate_up_proj, counts_E))
        out_RD = grouped_linear(inner, self.down_proj, counts_E)
        by_token = torch.empty_like(out_RD)
        by_token[order_R] = out_RD
        # One expert after another, likeliest first: a sum over a dimension may take any order.
        total_TD = torch.zeros_like(x_TD, dtype=torch.float32)
        for rank, out_TD in enumerate(by_token.unflatten(0, (-1, top_k)).unbind(1)):
            total_TD += out_TD * shares_TX[:, rank, None]
        return total_TD.to(x_TD.dtype)

    def shard(self, whole: Tensor, parameter: str = "weight", part: str = "") -> Tensor:
        """This rank's part of one expert's projection: of its inner dimension."""
        del part
        dim = -1 if parameter == "down_proj" else -2
        return whole.chunk(self.group.size, dim=dim)[self.group.rank]


class SparseMLP(nn.Module):
    """Router and experts. Parameters: `gate` (the router, whole on every rank), `experts`."""

    def __init__(
        self, hidden: int, experts: Experts, top_k: int, build: Build, *, renormalise: bool
    ) -> None:
        super().__init__()
        self.gate = Linear(hidden, experts.experts, build)
        self.experts = experts
        self.top_k = top_k
        self.renormalise = renormalise  # the chosen shares are scaled to a sum of one
        self.group = build.group

    def forward(self, x_TD: Tensor) -> Tensor:
        shares_TX, experts_TX = route_top_k(self.gate(x_TD), self.top_k)
        if self.renormalise:
            shares_TX = shares_TX / shares_TX.sum(dim=-1, keepdim=True)
        return self.group.all_reduce(self.experts(x_TD, shares_TX, experts_TX))
