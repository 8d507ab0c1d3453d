"""Rotary position embedding and the ways to stretch it.

Two ways depend, in other engines, on how long the text is by now: `dynamic` and `longrope` change
their frequencies when a sequence grows past a length, though keys turned the old way stand in the
cache. A token would then depend on how its text was cut into steps. Here the frequencies are fixed
by the context that the engine was started with: longrope takes its long factors, and dynamic the
base for that context, if it is longer than the one trained on, and both are as if unstretched if
not. Within the trained context that is transformers' result when the engine's context is no longer
than it; beyond, it is transformers' for a text of the engine's full context (longrope: for any text
longer than the trained context).

Shapes: T tokens, N heads, H head size, R rotated pairs (at most H / 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from espalier.errors import ConfigError
from espalier.kernels.rotary import rotary
from espalier.layers.build import Build


class Stretch(Protocol):
    """What `loading.facts.RopeSettings` says; that stands above the layers."""

    @property
    def kind(self) -> str: ...
    @property
    def theta(self) -> float: ...
    @property
    def partial(self) -> float: ...
    @property
    def factor(self) -> float: ...
    @property
    def context(self) -> int: ...
    @property
    def original_context(self) -> int: ...
    @property
    def attention_factor(self) -> float: ...
    @property
    def low_frequency_factor(self) -> float: ...
    @property
    def high_frequency_factor(self) -> float: ...
    @property
    def beta_fast(self) -> float: ...
    @property
    def beta_slow(self) -> float: ...
    @property
    def truncate(self) -> bool: ...
    @property
    def short_factors(self) -> tuple[float, ...]: ...
    @property
    def long_factors(self) -> tuple[float, ...]: ...


@dataclass(frozen=True, slots=True)
class Rotation:
    """The angles of a step's tokens; made once a step, for all layers of one kind."""

    cos_TR: Tensor  # float32
    sin_TR: Tensor

    def __call__(self, x_TNH: Tensor) -> Tensor:
        return rotary(x_TNH, self.cos_TR, self.sin_TR)


class Rotary(nn.Module):
    """Positions to a `Rotation`, for heads of one size."""

    def __init__(self, settings: Stretch, head_size: int, build: Build) -> None:
        super().__init__()
        turned = int(head_size * settings.partial)
        context = build.context_length or settings.context
        inverse_R = FREQUENCIES[settings.kind](settings, turned, context)
        self.scale = settings.attention_factor
        self.register_buffer("inverse_R", inverse_R.to(build.device), persistent=False)

    def forward(self, positions_T: Tensor) -> Rotation:
        angles_TR = positions_T.float()[:, None] * self.get_buffer("inverse_R")
        return Rotation(angles_TR.cos() * self.scale, angles_TR.sin() * self.scale)


def _default(settings: Stretch, turned: int, context: int) -> Tensor:
    del context
    return 1.0 / _periods(settings.theta, turned)


def _periods(theta: float, turned: int) -> Tensor:
    """By how many positions each pair turns one radian."""
    exponents_R = torch.arange(0, turned, 2, dtype=torch.float32) / turned
    periods_R: Tensor = theta**exponents_R
    return periods_R


def _linear(settings: Stretch, turned: int, context: int) -> Tensor:
    """All positions closer together."""
    return _default(settings, turned, context) / settings.factor


def _dynamic(settings: Stretch, turned: int, context: int) -> Tensor:
    """A larger base (NTK), as the engine's context needs it."""
    length = max(context, settings.context)
    growth = settings.factor * length / settings.context - (settings.factor - 1)
    theta = settings.theta * growth ** (turned / (turned - 2))
    return 1.0 / _periods(theta, turned)


def _llama3(settings: Stretch, turned: int, context: int) -> Tensor:
    """Slow pairs stretched, fast ones left, those between in part."""
    inverse_R = _default(settings, turned, context)
    low, high = settings.low_frequency_factor, settings.high_frequency_factor
    turns_R = settings.original_context * inverse_R / (2 * math.pi)  # within the trained context
    kept_R = ((turns_R - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept_R) * inverse_R / settings.factor + kept_R * inverse_R


def _yarn(settings: Stretch, turned: int, context: int) -> Tensor:
    """Slow pairs stretched, fast ones left, with a ramp over the pairs between."""
    inverse_R = _default(settings, turned, context)
    low = _pair_that_turns(settings.beta_fast, settings, turned)
    high = _pair_that_turns(settings.beta_slow, settings, turned)
    if settings.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    high = high + 0.001 if low == high else high
    ramp_R = (torch.arange(turned // 2, dtype=torch.float32) - low) / (high - low)
    kept_R = 1.0 - ramp_R.clamp(0.0, 1.0)
    return inverse_R / settings.factor * (1 - kept_R) + inverse_R * kept_R


def _pair_that_turns(times: float, settings: Stretch, turned: int) -> float:
    """Which pair turns so many times within the trained context, as a fraction."""
    length = settings.original_context / (times * 2 * math.pi)
    return turned * math.log(length) / (2 * math.log(settings.theta))


def _longrope(settings: Stretch, turned: int, context: int) -> Tensor:
    """A factor for each pair, of two sets."""
    is_long = context > settings.original_context
    factors = settings.long_factors if is_long else settings.short_factors
    if len(factors) != turned // 2:
        raise ConfigError(
            f"config.json: longrope has {len(factors)} factors for {turned // 2} rotated pairs",
            hint="the file does not fit the size of the heads",
        )
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * _periods(settings.theta, turned))


FREQUENCIES: Mapping[str, Callable[[Stretch, int, int], Tensor]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
