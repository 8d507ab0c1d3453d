"""What every test has: one torch thread and a fixed seed where torch is used at all."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small Llama checkpoint's folder; see `tests/checkpoints.py`."""
    # Imported here: most tests need neither torch nor transformers.
    from tests.checkpoints import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("tiny-llama"))
