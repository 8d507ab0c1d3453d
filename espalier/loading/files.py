"""Which files hold a checkpoint's weights, and every tensor in them, by name. Torch-free.

Only headers are read: enough to refuse a damaged or incomplete checkpoint at once, and to say how
many bytes it will need, before anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from espalier.errors import CheckpointError, NotBuilt
from espalier.loading.header import TensorEntry, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
MAX_INDEX = 100 * 1000 * 1000
READERS = 8  # headers are small; what takes time is waiting for them


def tensor_entries(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of the checkpoint in `folder`, by name."""
    index = folder / INDEX
    if index.exists():
        places = _read_index(index)
        return _indexed(index, places, _entries(folder / name for name in set(places.values())))
    return _entries(_files(folder))


def has_weights(folder: Path) -> bool:
    """Whether there is anything to load, sound or not."""
    return any(folder.glob("*.safetensors")) or (folder / INDEX).exists()


def weight_bytes(entries: Iterable[TensorEntry]) -> int:
    """What these tensors take up, as they are stored."""
    return sum(entry.num_bytes for entry in entries)


def _files(folder: Path) -> list[Path]:
    single = folder / SINGLE
    if single.exists():
        return [single]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLED)
    if pickled:
        raise NotBuilt(
            f"{folder}: {pickled[0]} is a pickle, and reading one can run any code in it",
            hint="convert the checkpoint to safetensors, or take a revision that has it",
        )
    raise CheckpointError(
        f"{folder}: has no *.safetensors",
        hint="fetch the weights, or start with --load-format dummy",
    )


def _entries(files: Iterable[Path]) -> dict[str, TensorEntry]:
    found: dict[str, TensorEntry] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for entries in pool.map(read_header, sorted(files)):
            for entry in entries:
                other = found.setdefault(entry.name, entry)
                if other is not entry:
                    raise CheckpointError(
                        f"{entry.file}: tensor {entry.name!r} is in {other.file.name} too",
                        hint="the folder mixes files of two checkpoints",
                    )
    return found


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name to file name, as the index says it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INDEX + 1)
        if len(data) > MAX_INDEX:
            raise CheckpointError(f"{path}: larger than {MAX_INDEX} bytes")
        places = json.loads(data)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not an index: {error!r}", hint="it is damaged; fetch it again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path}: weight_map is not an object with names in it")
    for tensor, name in places.items():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise CheckpointError(f"{path}: weight_map puts {tensor!r} in {name!r}, no file's name")
    for name in sorted(set(places.values())):
        if not (path.parent / name).exists():
            raise CheckpointError(
                f"{path.parent / name}: no such file, and {path.name} names it",
                hint="a part of the checkpoint is missing; fetch it again",
            )
    return places


def _indexed(
    index: Path, places: dict[str, str], entries: dict[str, TensorEntry]
) -> dict[str, TensorEntry]:
    """The tensors, after checking that the index and the files say the same."""
    for tensor, name in places.items():
        entry = entries.get(tensor)
        if entry is None or entry.file.name != name:
            raise CheckpointError(
                f"{index}: puts tensor {tensor!r} in {name}, which does not hold it",
                hint="the index and the files are of two checkpoints",
            )
    extra = next((tensor for tensor in entries if tensor not in places), None)
    if extra is not None:
        raise CheckpointError(
            f"{entries[extra].file}: holds tensor {extra!r}, which {index.name} does not name",
            hint="the index and the files are of two checkpoints",
        )
    return entries
