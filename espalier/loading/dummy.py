"""Weights that nobody trained, for tests and for measuring without a checkpoint.

A value is a function of the tensor's name in a checkpoint and of its place in the whole tensor, in
integer arithmetic up to one rounding: the same on every machine and device, however a layer fuses
or splits it. Scales are those of a healthy model, so that activations keep their size from layer to
layer and logits spread by about 3: were they almost equal, rounding would choose the tokens, and
top-p would keep the whole vocabulary.
"""

from __future__ import annotations

import math
from zlib import crc32

import torch
from torch import Tensor, nn

from espalier.layers.norm import OffsetRMSNorm
from espalier.loading.places import Names, Piece, Wanted, cells, shard, wanted

LOGITS_SPREAD = 3.0
SMALL_SPREAD = 0.02  # of biases, and of norms about one
BLOCK = 1 << 22  # items made at a time; bounds the memory beside the weights
# Of the sum of four numbers, even over 0 .. 65535: nearly normal, and exact in float32.
MEAN, SPREAD = 4 * 65535 / 2, math.sqrt(4 * (65536**2 - 1) / 12)


@torch.no_grad()
def fill(model: nn.Module, names: Names, whole: nn.Module) -> None:
    """Fill every parameter. `whole` is the model unsplit (on the meta device); alone, it is `model`."""
    tied = frozenset(names.tied.values())
    for place in wanted(model, names):
        for piece in place.pieces:
            shape = cells(whole, place, piece).shape
            target = cells(model, place, piece)
            scale = _scale(whole.get_submodule(place.module), place, shape, place.name in tied)
            values = _values(piece, shape, target, scale)
            target.copy_(shard(model, place, values, piece.part))


def _values(piece: Piece, shape: torch.Size, like: Tensor, scale: tuple[float, float]) -> Tensor:
    """The whole of a piece, in blocks."""
    mean, spread = scale
    out = torch.empty(shape.numel(), dtype=like.dtype, device=like.device)
    seed = crc32(piece.name.encode())
    for start in range(0, out.numel(), BLOCK):
        block = out[start : start + BLOCK]
        block.copy_(_normal(seed, start, block.numel(), like.device) * spread + mean)
    return out.view(shape)


def _scale(
    layer: nn.Module, place: Wanted, shape: torch.Size, is_head_too: bool
) -> tuple[float, float]:
    """Mean and spread of a parameter's values, by what it is."""
    if len(shape) < 2:
        is_norm = place.parameter == "weight" and "norm" in place.module
        is_factor = is_norm and not isinstance(layer, OffsetRMSNorm)
        return (1.0 if is_factor else 0.0), SMALL_SPREAD
    inputs = shape[-1]
    if is_head_too or place.module.endswith("lm_head"):
        # What comes in has unit size, so that a row's product has the spread of its norm.
        return 0.0, LOGITS_SPREAD / math.sqrt(inputs)
    if "embed" in place.module:
        return 0.0, 1.0
    return 0.0, 1.0 / math.sqrt(inputs)


def _normal(seed: int, start: int, count: int, device: torch.device) -> Tensor:
    """Nearly normal numbers for places [start, start + count) of a tensor, in float32."""
    at = torch.arange(start, start + count, dtype=torch.int64, device=device)
    signed = seed - (1 << 32) if seed >> 31 else seed  # so that its shift fits int64
    bits = _mixed(_mixed(at + (signed << 32)))
    quarters = sum(((bits >> shift) & 0xFFFF for shift in (16, 32, 48)), bits & 0xFFFF)
    return (quarters.to(torch.float32) - MEAN) / SPREAD


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 64-bit integers with well spread bits (the finalizer of splitmix64)."""
    x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """To the right, with zeros coming in: torch shifts signed numbers with their sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
