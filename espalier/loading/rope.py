"""How a checkpoint wants positions rotated, read from its config.json. Torch-free.

Two vintages are read: `rope_theta` beside `rope_scaling` (older), and `rope_parameters` (newer, where
some families keep one dict per kind of layer). What comes out is complete: every number that the
chosen kind needs is there, so that whoever computes frequencies looks nothing up again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast, get_args

from espalier.errors import CheckpointError, NotBuilt

Fields: TypeAlias = Mapping[str, Any]
RopeKind: TypeAlias = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]
KINDS: tuple[str, ...] = get_args(RopeKind)
OLD_NAMES = {"su": "longrope", "none": "default"}
NESTED = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSettings:
    """Rotary embedding of one kind of layer; fields after `partial` matter to the kinds named."""

    kind: RopeKind = "default"
    theta: float = 10_000.0
    partial: float = 1.0  # the share of each head that is rotated
    factor: float = 1.0  # how many times the context was stretched; all but default
    context: int = 0  # positions the checkpoint allows; dynamic, longrope
    original_context: int = 0  # positions it was first trained on; llama3, yarn, longrope
    attention_factor: float = 1.0  # cos and sin are scaled by this; yarn, longrope
    low_frequency_factor: float = 1.0  # llama3
    high_frequency_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: the ramp's ends are whole dimensions
    short_factors: tuple[float, ...] = ()  # longrope, one per rotated pair
    long_factors: tuple[float, ...] = ()  # longrope


def rope_settings(hf: Fields, layer_type: str | None = None) -> RopeSettings:
    """The rotary embedding of a config, or of its layers of one type where they differ."""
    rope = _parameters(hf, layer_type)
    kind = _kind(rope)
    context = int(hf.get("max_position_embeddings") or 0)
    common = RopeSettings(
        kind=kind,
        theta=_number(rope, "rope_theta", 10_000.0),
        partial=_number(rope, "partial_rotary_factor", 1.0),
        context=context,
    )
    return BUILDERS[kind](common, hf, rope)


def _parameters(hf: Fields, layer_type: str | None) -> dict[str, Any]:
    """The one dict of rope numbers, whatever vintage of config keeps it."""
    found = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"config.json: rope_parameters is {found!r} and not an object")
    rope = dict(found)
    if any(key in rope for key in NESTED):
        rope = dict(_nested(rope, layer_type))
    elif layer_type == "sliding_attention" and hf.get("rope_local_base_freq") is not None:
        # Gemma 3 before transformers 5: local layers have their own base, and no scaling.
        rope = {"rope_theta": hf["rope_local_base_freq"]}
    for key in ("rope_theta", "partial_rotary_factor"):
        if rope.get(key) is None:
            rope[key] = hf.get(key)
    return rope


def _nested(rope: Fields, layer_type: str | None) -> Fields:
    wanted = layer_type or "full_attention"
    inner = rope.get(wanted)
    if not isinstance(inner, Mapping):
        have = ", ".join(sorted(rope))
        raise CheckpointError(
            f"config.json: rope_parameters has no object for {wanted!r} layers",
            hint=f"it has {have}",
        )
    return inner


def _kind(rope: Fields) -> RopeKind:
    said = rope.get("rope_type") or rope.get("type") or "default"
    kind = OLD_NAMES.get(str(said), str(said))
    if kind not in KINDS:
        raise NotBuilt(
            f"config.json: rope_type = {said!r} is not supported",
            hint=f"supported: {', '.join(KINDS)}",
        )
    return cast(RopeKind, kind)


def _default(common: RopeSettings, hf: Fields, rope: Fields) -> RopeSettings:
    del hf, rope
    return common


def _scaled(common: RopeSettings, hf: Fields, rope: Fields) -> RopeSettings:
    del hf
    return replace(common, factor=_needed(rope, "factor", common.kind))


def _llama3(common: RopeSettings, hf: Fields, rope: Fields) -> RopeSettings:
    return replace(
        common,
        factor=_needed(rope, "factor", "llama3"),
        original_context=_original(hf, rope),
        low_frequency_factor=_needed(rope, "low_freq_factor", "llama3"),
        high_frequency_factor=_needed(rope, "high_freq_factor", "llama3"),
    )


def _yarn(common: RopeSettings, hf: Fields, rope: Fields) -> RopeSettings:
    original = _original(hf, rope)
    factor = _number(rope, "factor", common.context / original)
    scale, scale_all = _number(rope, "mscale", 0.0), _number(rope, "mscale_all_dim", 0.0)
    if scale and scale_all:
        attention = _yarn_scale(factor, scale) / _yarn_scale(factor, scale_all)
    else:
        attention = _yarn_scale(factor, 1.0)
    return replace(
        common,
        factor=factor,
        original_context=original,
        attention_factor=_number(rope, "attention_factor", attention),
        beta_fast=_number(rope, "beta_fast", 32.0) or 32.0,
        beta_slow=_number(rope, "beta_slow", 1.0) or 1.0,
        truncate=rope.get("truncate") is not False,
    )


def _yarn_scale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope(common: RopeSettings, hf: Fields, rope: Fields) -> RopeSettings:
    original = _original(hf, rope)
    factor = _number(rope, "factor", common.context / original)
    attention = 1.0
    if factor > 1:
        attention = math.sqrt(1 + math.log(factor) / math.log(original))
    return replace(
        common,
        factor=factor,
        original_context=original,
        attention_factor=_number(rope, "attention_factor", attention),
        short_factors=_numbers(rope, "short_factor"),
        long_factors=_numbers(rope, "long_factor"),
    )


BUILDERS: Mapping[RopeKind, Callable[[RopeSettings, Fields, Fields], RopeSettings]] = {
    "default": _default,
    "linear": _scaled,
    "dynamic": _scaled,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _original(hf: Fields, rope: Fields) -> int:
    """The context before stretching. Phi 3 keeps it outside of the rope numbers, and that wins."""
    key = "original_max_position_embeddings"
    found = hf.get(key) or rope.get(key) or hf.get("max_position_embeddings")
    if not isinstance(found, int | float) or found < 2:
        raise CheckpointError(f"config.json: {key} is {found!r} and not a length")
    return int(found)


def _needed(rope: Fields, key: str, kind: str) -> float:
    if rope.get(key) is None:
        raise CheckpointError(f"config.json: rope_type {kind!r} needs {key!r}, which is missing")
    return _number(rope, key, 0.0)


def _number(rope: Fields, key: str, default: float) -> float:
    value = rope.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"config.json: {key} is {value!r} and not a number")
    return float(value)


def _numbers(rope: Fields, key: str) -> tuple[float, ...]:
    values = rope.get(key)
    if not isinstance(values, list | tuple) or not values:
        raise CheckpointError(f"config.json: rope_type 'longrope' needs a list {key!r}")
    return tuple(_number({key: value}, key, 1.0) for value in values)
