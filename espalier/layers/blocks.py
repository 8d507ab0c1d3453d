"""The usual attention block and the usual gated MLP, for models that are usual.

Shapes: T tokens, D hidden size, N query heads, K key-value heads, H head size (N and K: this rank's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from espalier.attention.base import Heads, Step
from espalier.kernels.activation import silu_and_mul
from espalier.layers.build import Build
from espalier.layers.linear import FusedColumnLinear, RowLinear
from espalier.layers.rotary import Rotation


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionShape:
    """An attention layer as the whole model has it, before ranks share it."""

    layer: int
    hidden: int
    query_heads: int
    key_value_heads: int
    head_size: int
    scale: float | None = None  # None: one over the square root of the head size
    window: int | None = None
    soft_cap: float | None = None
    qkv_bias: bool = False
    out_bias: bool = False

    def heads(self, build: Build) -> Heads:
        """What of it this rank computes; key-value heads fewer than ranks are held by several."""
        key_value = self.key_value_heads * build.sharers(self.key_value_heads)
        return Heads(
            layer=self.layer,
            query=build.share(self.query_heads, "the number of query heads"),
            key_value=build.share(key_value, "the number of key-value heads"),
            size=self.head_size,
            scale=self.head_size**-0.5 if self.scale is None else self.scale,
            window=self.window,
            soft_cap=self.soft_cap,
        )


class SelfAttention(nn.Module):
    """Projections, norms of queries and keys if there are any, rotation, attention, output.

    Parameters: `qkv_proj` (fused of q_proj, k_proj, v_proj), `o_proj`, `q_norm`, `k_norm`.
    """

    def __init__(
        self,
        shape: AttentionShape,
        build: Build,
        *,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads = shape.heads(build)
        query = shape.query_heads * shape.head_size
        key_value = shape.key_value_heads * shape.head_size
        sharers = build.sharers(shape.key_value_heads)
        self.qkv_proj = FusedColumnLinear(
            shape.hidden,
            {"q_proj": query, "k_proj": key_value, "v_proj": key_value},
            build,
            bias=shape.qkv_bias,
            sharers={"k_proj": sharers, "v_proj": sharers},
        )
        self.o_proj = RowLinear(query, shape.hidden, build, bias=shape.out_bias)
        self.q_norm = q_norm
        self.k_norm = k_norm

    def forward(self, x_TD: Tensor, rotation: Rotation, step: Step) -> Tensor:
        q, k, v = self.qkv_proj.split(self.qkv_proj(x_TD))
        q_TNH, k_TKH, v_TKH = (x.unflatten(-1, (-1, self.heads.size)) for x in (q, k, v))
        if self.q_norm is not None:
            q_TNH = self.q_norm(q_TNH)
        if self.k_norm is not None:
            k_TKH = self.k_norm(k_TKH)
        out_TNH = step.attend(rotation(q_TNH), rotation(k_TKH), v_TKH, self.heads)
        return self.o_proj(out_TNH.flatten(-2))


class GatedMLP(nn.Module):
    """`down(activation(gate(x)) * up(x))`. Parameters: `gate_up_proj` (fused), `down_proj`."""

    def __init__(
        self,
        hidden: int,
        inner: int,
        build: Build,
        *,
        activation: Callable[[Tensor], Tensor] = silu_and_mul,
        bias: bool = False,
    ) -> None:
        super().__init__()
        outputs = {"gate_proj": inner, "up_proj": inner}
        self.gate_up_proj = FusedColumnLinear(hidden, outputs, build, bias=bias)
        self.down_proj = RowLinear(inner, hidden, build, bias=bias)
        self.activation = activation

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_up_proj(x_TD)))
