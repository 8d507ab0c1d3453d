"""A checkpoint's tensors, straight from its files.

Files are mapped and not read: a tensor is a view of the page cache, and its bytes come from the disk
when somebody copies them, on as many threads as copy. Only safetensors; see `files` and `header`
for what is checked before.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from espalier.errors import CheckpointError, NotBuilt
from espalier.loading.files import tensor_entries, weight_bytes
from espalier.loading.header import TensorEntry

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}


class Checkpoint:
    """Tensors by name; iterating gives (name, tensor), in the order of the files.

    A tensor shares the mapped file's memory: it may be read, never written, for as long as it lives.
    """

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self.entries = entries
        self._maps = {path: _map(path) for path in {entry.file for entry in entries.values()}}

    @staticmethod
    def open(folder: Path) -> Checkpoint:
        """The checkpoint in `folder`; every header is checked here, and no tensor is read."""
        return Checkpoint(tensor_entries(folder))

    @property
    def num_bytes(self) -> int:
        return weight_bytes(self.entries.values())

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, entry in self.entries.items():
            yield name, self._tensor(entry)

    def __len__(self) -> int:
        return len(self.entries)

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`."""
        if name not in self.entries:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}")
        return self._tensor(self.entries[name])

    def _tensor(self, entry: TensorEntry) -> Tensor:
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise NotBuilt(
                f"{entry.file}: tensor {entry.name!r} is {entry.dtype}, which is not supported",
                hint=f"supported: {', '.join(DTYPES)}",
            )
        if not entry.num_bytes:
            return torch.empty(entry.shape, dtype=dtype)
        view = memoryview(self._maps[entry.file])[entry.start : entry.end]
        return _aligned(view, dtype).view(entry.shape)


def _aligned(view: memoryview, dtype: torch.dtype) -> Tensor:
    """The bytes as items. Files need not align them; torch then reads through a copy."""
    octets = torch.frombuffer(view, dtype=torch.uint8)
    if octets.data_ptr() % dtype.itemsize:
        octets = octets.clone()
    return octets.view(dtype)


def _map(path: Path) -> mmap.mmap:
    """The whole file, private to this process: torch wants memory it might write to."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
