"""Which tensors a model wants from a checkpoint, by what names, and where each of them goes.

A model's parameter is met in one of two ways: by a tensor of its own name (`qkv_proj.weight`, or
`experts.gate_up_proj` of all experts), or by the pieces that `Names` lists for it (`q_proj.weight`
and so on; `experts.7.gate_proj.weight` for every expert). Both lead to the same cells of memory:
a whole one is cut into the pieces first, so that each is split over the ranks by itself.

E experts, I inner size, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor, nn

from espalier.errors import CheckpointError
from espalier.layers.build import Sharded
from espalier.layers.embedding import LMHead, VocabEmbedding
from espalier.layers.linear import FusedColumnLinear


@dataclass(frozen=True, slots=True)
class Names:
    """How a checkpoint's names map to the model's.

    `fused`: our module's own name to theirs, in order of rows: {"qkv_proj": ("q_proj", ...)}.
    `experts`: our stacked parameter, with the module that holds it, to each expert's modules in
    order: {"experts.gate_up_proj": ("gate_proj", "up_proj")} takes [E, 2I, D] from
    `experts.7.gate_proj.weight` and `experts.7.up_proj.weight`, or from `experts.gate_up_proj`.
    `tied`: our parameter that shares another's memory; it may be absent from the checkpoint.
    `ignored`: names to skip: an ending, or a pattern with `*`.
    `renames`: text in a checkpoint's name, and what stands for it here; the first that is a part
    of the name is applied, before anything else looks at the name.
    """

    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    experts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()

    def ours(self, theirs: str) -> str | None:
        """The name by which we look for a checkpoint's tensor, or None if it is to be skipped."""
        if any(_is_match(theirs, pattern) for pattern in self.ignored):
            return None
        for old, new in self.renames:
            if old in theirs:
                return theirs.replace(old, new, 1)
        return theirs


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor wanted from a checkpoint, by its name there."""

    name: str
    part: str = ""  # of a fused layer, or of stacked experts
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One of the model's parameters, and the pieces it is made of (itself, if it is plain)."""

    name: str
    module: str
    parameter: str
    pieces: tuple[Piece, ...]

    @property
    def is_plain(self) -> bool:
        return len(self.pieces) == 1 and self.pieces[0].name == self.name

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts in the order in which they are stacked."""
        return tuple(dict.fromkeys(piece.part for piece in self.pieces))


def wanted(model: nn.Module, names: Names) -> Iterator[Wanted]:
    """Every parameter that a checkpoint must fill; those that share another's memory are left out."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in names.tied:
            continue
        module, _, own = name.rpartition(".")
        pieces = _pieces(name, parameter, names)
        yield Wanted(name, module, own, pieces or (Piece(name),))


def _pieces(name: str, parameter: Tensor, names: Names) -> tuple[Piece, ...]:
    module, _, own = name.rpartition(".")
    outer, _, called = module.rpartition(".")
    if called in names.fused:
        prefix = f"{outer}." if outer else ""
        return tuple(Piece(f"{prefix}{part}.{own}", part) for part in names.fused[called])
    for stacked, parts in names.experts.items():
        if name == stacked or name.endswith(f".{stacked}"):
            return tuple(
                Piece(f"{module}.{expert}.{part}.weight", part, expert)
                for part in parts
                for expert in range(parameter.shape[0])
            )
    return ()


def cells(model: nn.Module, place: Wanted, piece: Piece) -> Tensor:
    """The model's own memory that a piece fills; a view."""
    layer = model.get_submodule(place.module)
    target: Tensor = layer.get_parameter(place.parameter)
    if isinstance(layer, FusedColumnLinear) and piece.part:
        return layer.part(piece.part, place.parameter)
    if piece.expert is not None:
        target = target[piece.expert]
        parts = place.parts
        return target.chunk(len(parts), dim=0)[parts.index(piece.part)]
    return target


def shard(model: nn.Module, place: Wanted, whole: Tensor, part: str = "") -> Tensor:
    """This rank's share of a parameter, or of one part of it, as its layer splits it."""
    layer = model.get_submodule(place.module)
    if isinstance(layer, VocabEmbedding | LMHead) and len(whole) != layer.vocabulary:
        # These pad their last rank's rows, so that a wrong number of them would go unseen.
        raise misshapen(place.name, whole, (layer.vocabulary, *whole.shape[1:]))
    return layer.shard(whole, place.parameter, part) if isinstance(layer, Sharded) else whole


def cut(model: nn.Module, place: Wanted, whole: Tensor) -> Iterator[tuple[Piece, Tensor]]:
    """A tensor that holds all pieces of a parameter, taken apart."""
    layer = model.get_submodule(place.module)
    parts = place.parts
    if isinstance(layer, FusedColumnLinear):
        sizes = list(layer.whole_sizes.values())
        if whole.shape[0] != sum(sizes):
            raise misshapen(place.name, whole, (sum(sizes), *whole.shape[1:]))
        yield from zip(place.pieces, whole.split(sizes), strict=True)
        return
    experts = len(place.pieces) // len(parts)
    if whole.dim() < 2 or whole.shape[0] != experts or whole.shape[1] % len(parts):
        raise misshapen(place.name, whole, (experts, "a multiple of", len(parts)))
    by_part = dict(zip(parts, whole.chunk(len(parts), dim=1), strict=True))
    for piece in place.pieces:
        assert piece.expert is not None, "what is not fused is stacked"
        yield piece, by_part[piece.part][piece.expert]


def misshapen(name: str, theirs: Tensor, mine: object) -> CheckpointError:
    return CheckpointError(
        f"{name} is {tuple(theirs.shape)} in the checkpoint and {mine} in the model",
        hint="config.json and the weights are not of the same model",
    )


def _is_match(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if "*" in pattern else name.endswith(pattern)
