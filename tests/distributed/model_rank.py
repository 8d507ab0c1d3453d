"""What every rank does in the tests of split models: the same calls, on its part of the weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.distributed.group import Group
from espalier.distributed.launch import join
from espalier.loading.checkpoint import Checkpoint
from espalier.loading.facts import read_config
from espalier.loading.weights import load
from espalier.models import build_model
from tests.models.harness import BUILD, Runner, Text, in_chunks

LENGTH, NEW = 60, 6


def prompt() -> Tensor:
    return torch.randint(0, 160, (LENGTH,), generator=torch.Generator().manual_seed(1))


def model_of(folder: Path, group: Group) -> Any:
    model: Any = build_model(read_config(folder), replace(BUILD, group=group), 4096)
    load(model, model.names, Checkpoint.open(folder))
    return model


def logits_of(model: Any) -> tuple[Tensor, Tensor]:
    """Of the prompt whole and then tokens chosen greedily; and of the prompt in pieces."""
    runner, text, parts = Runner(model), Text(), []
    new = prompt()
    for _ in range(NEW):
        parts.append(runner.step((text, new))[0])
        new = parts[-1][-1:].argmax(-1)
    return torch.cat(parts), in_chunks(Runner(model), prompt(), [1, 30, 1, LENGTH - 32])


if __name__ == "__main__":
    torch.set_num_threads(1)
    own, settings = join(sys.argv)
    for name in settings.decode().split("\n"):
        logits_of(model_of(Path(name), own))
