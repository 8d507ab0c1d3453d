"""The three small tokenizers, ours and the libraries' own reading of the same files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from espalier.tokenizer.hf import HfTokenizer, load
from tests import tokenizers

KINDS: dict[str, Callable[[Path], int]] = {
    "byte_level": tokenizers.byte_level_bpe,
    "sentencepiece": tokenizers.sentencepiece_bpe,
    "unigram": tokenizers.unigram,
}


@dataclass(frozen=True)
class Pair:
    folder: Path
    ours: HfTokenizer
    theirs: Backend


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    made: dict[str, Pair] = {}
    for name, write in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder)
        theirs = Backend.from_file(str(folder / "tokenizer.json"))
        made[name] = Pair(folder, load(folder), theirs)
    return made


@pytest.fixture(params=sorted(KINDS))
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    return pairs[request.param]
