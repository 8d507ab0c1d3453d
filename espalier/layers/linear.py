"""Linear layers, split over tensor-parallel ranks.

A column layer splits the output and needs no communication; a row layer splits the input and sums
over the ranks; a plain one is whole on every rank. A fused layer stacks several projections of one
input in one matrix. How a weight is kept and multiplied is the build's `LinearMethod`.

Shapes: T tokens, D inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from espalier.layers.build import Build


class Linear(nn.Module):
    """Whole on every rank."""

    def __init__(self, inputs: int, outputs: int, build: Build, *, bias: bool = False) -> None:
        super().__init__()
        self.group = build.group
        self.method = build.linear
        made = self.method.parameters(inputs, outputs, build.dtype, build.device)
        for name, tensor in made.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        self.has_bias = bias
        if bias:
            zeros = torch.zeros(outputs, dtype=build.dtype, device=build.device)
            self.bias = nn.Parameter(zeros, requires_grad=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        bias_O = self.bias if self.has_bias else None
        return self.method.product(self.get_parameter, x_TD, bias_O)

    def shard(self, whole: Tensor, parameter: str = "weight", part: str = "") -> Tensor:
        """This rank's part of a parameter as the checkpoint has it."""
        del parameter, part
        return whole


class FusedColumnLinear(Linear):
    """Projections of one input, each split over the ranks by its outputs.

    `sharers`: for a projection with fewer heads than ranks, how many ranks hold the same part.
    """

    def __init__(
        self,
        inputs: int,
        outputs: Mapping[str, int],
        build: Build,
        *,
        bias: bool = False,
        sharers: Mapping[str, int] | None = None,
    ) -> None:
        self_sharers = {name: (sharers or {}).get(name, 1) for name in outputs}
        sizes = {
            name: build.share(size * self_sharers[name], name) for name, size in outputs.items()
        }
        super().__init__(inputs, sum(sizes.values()), build, bias=bias)
        self.sizes = sizes
        self.whole_sizes = dict(outputs)
        self.sharers = self_sharers

    def split(self, out_TO: Tensor) -> tuple[Tensor, ...]:
        return out_TO.split(list(self.sizes.values()), dim=-1)

    def part(self, name: str, parameter: str = "weight") -> Tensor:
        """The rows of a parameter that belong to the projection called `name`; a view."""
        parts = self.get_parameter(parameter).split(list(self.sizes.values()))
        return dict(zip(self.sizes, parts, strict=True))[name]

    def shard(self, whole: Tensor, parameter: str = "weight", part: str = "") -> Tensor:
        del parameter
        sharers = self.sharers.get(part, 1)
        return whole.chunk(self.group.size // sharers)[self.group.rank // sharers]


class ColumnLinear(FusedColumnLinear):
    """One projection, split over the ranks by its outputs."""

    def __init__(self, inputs: int, outputs: int, build: Build, *, bias: bool = False) -> None:
        super().__init__(inputs, {"the output of a column layer": outputs}, build, bias=bias)


class RowLinear(Linear):
    """Split over the ranks by its inputs; the result is whole on every rank."""

    def __init__(self, inputs: int, outputs: int, build: Build, *, bias: bool = False) -> None:
        local = build.share(inputs, "the input of a row layer")
        super().__init__(local, outputs, build, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        # A bias must be added once, by the first rank alone.
        bias_O = self.bias if self.has_bias and self.group.rank == 0 else None
        return self.group.all_reduce(self.method.product(self.get_parameter, x_TD, bias_O))

    def shard(self, whole: Tensor, parameter: str = "weight", part: str = "") -> Tensor:
        del part
        if parameter == "bias":
            return whole
        return whole.chunk(self.group.size, dim=-1)[self.group.rank]
