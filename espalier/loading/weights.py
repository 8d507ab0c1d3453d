"""From a checkpoint's tensors to a model's parameters. The one loader, for every model.

A model says how its names differ from the checkpoint's, as data (`Names`); it has no loading code.
All names and shapes are settled before the first byte is copied, so nothing is ever half loaded;
then every parameter is filled exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espalier.errors import CheckpointError
from espalier.loading.places import Names, Wanted, cells, cut, misshapen, shard, wanted
from espalier.loading.progress import unseen, watched

__all__ = ["Names", "load"]

MAX_SHOWN = 5
COPIERS = 4  # threads; more do not read a disk or fill memory faster
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Copy:
    """This rank's share of one tensor, and the memory it goes to; of one shape."""

    name: str
    source: Tensor
    target: Tensor


@torch.no_grad()
def load(model: nn.Module, names: Names, checkpoint: Iterable[tuple[str, Tensor]]) -> None:
    """Fill every parameter from the checkpoint; all must be met, and nothing may be left over.

    Tensors are cast to the parameter's dtype. Names, shapes and dtypes that do not fit raise
    CheckpointError before anything is changed; numbers that are none, while it is copied.
    """
    tensors = _by_our_names(names, checkpoint)
    copies: list[_Copy] = []
    missing: list[str] = []
    for place in wanted(model, names):
        copies += _copies(model, place, tensors, missing)
    _check_tied(model, names, tensors, copies)
    _check_left_over(model, tensors, missing)
    _carry_out(copies)


def _by_our_names(names: Names, checkpoint: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for theirs, tensor in checkpoint:
        name = names.ours(theirs)
        if name is None:
            continue
        if name in found:
            raise CheckpointError(f"{theirs!r} is in the checkpoint twice")
        found[name] = tensor
    return found


def _copies(
    model: nn.Module, place: Wanted, tensors: dict[str, Tensor], missing: list[str]
) -> list[_Copy]:
    """What fills one parameter; takes it out of `tensors`, and adds to `missing` what is not there."""
    whole = tensors.pop(place.name, None)
    if whole is not None and place.is_plain:
        pairs = [(place.pieces[0], whole)]
    elif whole is not None:
        pairs = list(cut(model, place, whole))
    else:
        missing += [piece.name for piece in place.pieces if piece.name not in tensors]
        found = (piece for piece in place.pieces if piece.name in tensors)
        pairs = [(piece, tensors.pop(piece.name)) for piece in found]
    return [
        _copy(piece.name, shard(model, place, tensor, piece.part), cells(model, place, piece))
        for piece, tensor in pairs
    ]


def _copy(name: str, source: Tensor, target: Tensor) -> _Copy:
    if source.shape != target.shape:
        raise misshapen(name, source, tuple(target.shape))
    if (source.dtype in FLOATS) != (target.dtype in FLOATS):
        raise CheckpointError(
            f"{name} is {source.dtype} in the checkpoint and {target.dtype} in the model",
            hint="the checkpoint is quantized in a way that is not supported here",
        )
    return _Copy(name, source, target)


def _check_tied(
    model: nn.Module, names: Names, tensors: dict[str, Tensor], copies: list[_Copy]
) -> None:
    """A tied weight that the checkpoint holds all the same must be equal to the one it shares."""
    sources = {copy.name: copy.source for copy in copies}
    for name, shared in names.tied.items():
        extra = tensors.pop(name, None)
        if extra is None or shared not in sources:
            continue
        place = Wanted(name, name.rpartition(".")[0], name.rpartition(".")[2], ())
        if not torch.equal(shard(model, place, extra), sources[shared]):
            raise CheckpointError(
                f"{name} differs from {shared}, and config.json says that they are one",
                hint='set "tie_word_embeddings" to false in config.json if both are meant',
            )


def _check_left_over(model: nn.Module, tensors: Mapping[str, Tensor], missing: list[str]) -> None:
    called = type(model).__name__
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {len(missing)} weights that {called} needs: {_some(missing)}",
            hint="a file of it may be missing" if tensors else "",
        )
    if tensors:
        raise CheckpointError(
            f"the checkpoint has {len(tensors)} weights with no place in {called}: "
            f"{_some(tensors)}",
            hint="config.json and the weights are not of the same model",
        )


def _some(names: Iterable[str]) -> str:
    every = sorted(names)
    more = len(every) - MAX_SHOWN
    return ", ".join(every[:MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _carry_out(copies: list[_Copy]) -> None:
    line = watched("loading", sum(copy.source.nbytes for copy in copies))
    advance = line.advance if line else unseen
    try:
        with ThreadPoolExecutor(COPIERS) as pool:
            for copy in pool.map(_carry_out_one, copies):
                advance(copy.source.nbytes)
    finally:
        if line:
            line.close()


@torch.no_grad()  # which holds for the thread that says it
def _carry_out_one(copy: _Copy) -> _Copy:
    if copy.source.dtype in FLOATS and copy.source.numel():
        # One pass and no temporary; whatever is not a number comes out at either end.
        ends = torch.stack(torch.aminmax(copy.source))
        if not torch.isfinite(ends).all():
            raise CheckpointError(
                f"{copy.name} holds numbers that are infinite or none",
                hint="the checkpoint is damaged or was never trained to its end",
            )
    copy.target.copy_(copy.source)
    return copy
