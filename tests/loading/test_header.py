"""A damaged safetensors file is refused with its name and what is wrong, whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from espalier.errors import CheckpointError
from espalier.loading.checkpoint import Checkpoint
from espalier.loading.header import read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_sound_file_is_read(file: Path) -> None:
    entries = {entry.name: entry for entry in read_header(file)}
    assert entries["a"].shape == (2, 3)
    assert entries["a"].dtype == "F32"
    assert entries["b"].num_bytes == 8
    tensors = dict(Checkpoint.open(file.parent))
    assert tensors["a"].tolist() == [[1.0] * 3] * 2
    assert tensors["b"].dtype == torch.bfloat16


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "unknown dtype": (lambda h: h["a"].update(dtype="F31"), "'a'.*F31"),
    "wrong shape": (lambda h: h["a"].update(shape=[2, 4]), "'a'.*needs 32 bytes, has 24"),
    "negative size": (lambda h: h["a"].update(shape=[-2, 3]), "'a'.*shape"),
    "a shape that overflows": (lambda h: h["a"].update(shape=[2**62, 2**62]), "'a'"),
    "a boolean size": (lambda h: h["a"].update(shape=[True, 6]), "'a'.*shape"),
    "offsets past the end": (
        lambda h: h["b"].update(shape=[8], data_offsets=[24, 40]),
        "'b' ends at byte",
    ),
    "overlap": (lambda h: h["b"].update(data_offsets=[4, 12]), "overlaps|gap"),
    "a missing key": (lambda h: h["a"].pop("dtype"), "'a'.*described"),
    "an unknown key": (lambda h: h["a"].update(extra=1), "'a'.*described"),
    "no object": (lambda h: h.update(a=5), "'a'"),
    "a tensor less": (lambda h: h.pop("a"), "gap|end"),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES.keys())
def test_a_false_header_is_refused(
    file: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=why) as caught:
        read_header(file)
    assert file.name in str(caught.value)


def test_a_name_that_stands_twice_is_refused(file: Path) -> None:
    one = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f'{{"a":{one},"a":{one}}}'.encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(CheckpointError, match="'a' twice"):
        read_header(file)


@pytest.mark.parametrize("size", [0, 4, 8, 20, -1, -5])
def test_a_file_that_was_cut_off_is_refused(file: Path, size: int) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_header(file)


def test_a_header_longer_than_any_is_refused(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes((2**60).to_bytes(8, "little") + data[8:])
    with pytest.raises(CheckpointError, match="header"):
        read_header(file)


def test_bytes_behind_the_tensors_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="end at byte"):
        read_header(file)


def test_deep_json_is_refused(file: Path) -> None:
    text = b"[" * 100_000
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="JSON"):
        read_header(file)
