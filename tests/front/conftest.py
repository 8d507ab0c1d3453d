"""A small byte-level tokenizer, for everything that is text."""

from __future__ import annotations

import pytest

from espalier.tokenizer.hf import HfTokenizer, load
from tests.tokenizers import byte_level_bpe


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HfTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_level_bpe(folder)
    return load(folder)
