"""The header of a safetensors file, checked by us before anything of the file is used. Torch-free.

A file is 8 bytes (the header's length, little-endian), the header (a JSON object from tensor name to
dtype, shape and span) and the tensors' bytes, one after another without gaps. Whatever is not so is
refused, with the file's and the tensor's name: a shape is trusted only when it accounts for exactly
the bytes that are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from espalier.errors import CheckpointError

MAX_HEADER = 100 * 1000 * 1000  # bytes; the format's own limit
MAX_DIMENSIONS = 8
MAX_SPAN = (1 << 63) - 1  # what an offset in a file can be
ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
DAMAGED = "the file is damaged or cut off; fetch it again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor in a file: bytes [start, end) of the file itself."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.start


def read_header(path: Path) -> list[TensorEntry]:
    """The tensors of a file in the order of their bytes; raises CheckpointError if any is amiss."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                _refuse(path, f"its header's length {length} does not fit its {size} bytes")
            data = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    entries = [
        _entry(path, name, value, 8 + length)
        for name, value in _parse(path, data).items()
        if name != "__metadata__"
    ]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_spans(path, entries, 8 + length, size)
    return entries


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            _refuse(path, f"its header names {twice!r} twice")
        return found

    try:
        header = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is not JSON: {error}", hint=DAMAGED) from error
    if not isinstance(header, dict):
        _refuse(path, "its header is not a JSON object")
    return header


def _entry(path: Path, name: str, value: Any, base: int) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        _refuse(path, f"tensor {name!r} has an unknown dtype {dtype!r}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        _refuse(path, f"tensor {name!r} has a shape {shape!r} that is none")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"tensor {name!r} has data_offsets {offsets!r} that are no span")
    start, end = offsets
    wanted = ITEM_BYTES[dtype]
    for size in shape:
        wanted *= size
    if wanted != end - start:
        _refuse(path, f"tensor {name!r} of {dtype} {shape} needs {wanted} bytes, has {end - start}")
    return TensorEntry(name, path, dtype, tuple(shape), base + start, base + end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SPAN
        for value in values
    )


def _check_spans(path: Path, entries: list[TensorEntry], base: int, size: int) -> None:
    at = base
    for entry in entries:
        if entry.start != at:
            how = "overlaps the one before it" if entry.start < at else "leaves a gap before it"
            _refuse(path, f"tensor {entry.name!r} at byte {entry.start} {how} (which ends at {at})")
        at = entry.end
        if at > size:
            _refuse(path, f"tensor {entry.name!r} ends at byte {at} and the file has {size}")
    if at != size:
        _refuse(path, f"its tensors end at byte {at} and the file has {size}")


def _refuse(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"{path}: {why}", hint=DAMAGED)
