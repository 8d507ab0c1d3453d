"""One rank's worker: the model with its weights, the pools, and the runner that joins them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import msgspec
import numpy as np
import torch
from torch import nn

from espalier.attention import BACKENDS
from espalier.distributed.group import Alone, Group
from espalier.errors import ConfigError, UnknownName
from espalier.kernels.linear import linear
from espalier.kernels.sampling import keep, race
from espalier.layers.build import Build
from espalier.loading.checkpoint import Checkpoint
from espalier.loading.dummy import fill
from espalier.loading.facts import read_config
from espalier.loading.weights import load
from espalier.models import build_model
from espalier.models.base import CausalLM
from espalier.protocol.arrays import NO_IDS, ids
from espalier.protocol.sampling import Sampling
from espalier.protocol.step import Join, PageChanges, StepBatch
from espalier.sampling.batch import SamplingTable
from espalier.worker.inputs import Inputs
from espalier.worker.memory import workspace_bytes
from espalier.worker.pools import Pools
from espalier.worker.runner import Runner

LoadFormat: TypeAlias = Literal["safetensors", "dummy"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker is made from; the same on every rank."""

    folder: str  # of the checkpoint
    num_pages: int  # page 0, which belongs to nobody, included
    page_size: int
    max_running: int  # slots
    context_length: int
    dtype: str
    config: dict[str, Any] | None = None  # instead of the folder's config.json
    device: str = "cpu"
    load_format: LoadFormat = "safetensors"
    attention: str = "reference"
    threads: int = 0  # of a CPU; 0: as torch has it


class Worker:
    """Made by `build`, or of parts in a test; afterwards only `runner` is called."""

    def __init__(self, spec: WorkerSpec, model: CausalLM, vocabulary: int) -> None:
        self.spec = spec
        self.model = model
        self.device = torch.device(spec.device)
        heads = model.heads()
        assert [layer.layer for layer in heads] == list(range(len(heads))), "one pool a layer"
        self.pools = Pools(
            heads,
            num_pages=spec.num_pages,
            page_size=spec.page_size,
            dtype=dtype_of(spec),
            device=self.device,
        )
        self.runner = Runner(
            model=model,
            backend=BACKENDS.get(spec.attention)(self.pools.kv),
            inputs=Inputs(spec.max_running, self.pools, self.device),
            table=SamplingTable(spec.max_running, vocabulary, self.device),
        )

    @staticmethod
    def build(spec: WorkerSpec, group: Group | None = None) -> Worker:
        """Build the model, load its weights, take the memory. Raises ConfigError's children."""
        if spec.threads:
            torch.set_num_threads(spec.threads)
        if spec.device == "cpu":
            keep.choose("row by row")
        else:
            linear.choose("vendor")
            race.choose("row by row")
        config = read_config(Path(spec.folder)) if spec.config is None else spec.config
        build = Build(dtype_of(spec), torch.device(spec.device), group or Alone())
        model = build_model(config, build, spec.context_length)
        if spec.load_format == "dummy":
            alone = replace(build, device=torch.device("meta"), group=Alone())
            whole = model if build.group.size == 1 else build_model(config, alone, 0)
            fill(_module(model), model.names, _module(whole))
        else:
            load(_module(model), model.names, Checkpoint.open(Path(spec.folder)))
        return Worker(spec, model, int(config["vocab_size"]))

    def workspace_bytes(self, step_tokens: int) -> int:
        """Memory that the costliest step takes beside weights and pools. Before any is served."""
        batch = _costliest(self.spec, step_tokens)
        runner = self.runner
        used = workspace_bytes(
            lambda: runner.sample(runner.forward(batch)).wait_for_result(), self.device
        )
        for slot in batch.slots.tolist():
            runner.table.leave(slot)
        return used


def dtype_of(spec: WorkerSpec) -> torch.dtype:
    if spec.dtype not in DTYPES:
        raise UnknownName("dtype", spec.dtype, DTYPES)
    return DTYPES[spec.dtype]


def _module(model: CausalLM) -> nn.Module:
    """Every model is a module, which its protocol cannot say."""
    return cast(nn.Module, model)


def _costliest(spec: WorkerSpec, step_tokens: int) -> StepBatch:
    """A prompt as long as a step and a context allow, and one token of every other slot, all drawn.

    Pages may repeat: what is computed is never used.
    """
    others = min(spec.max_running, step_tokens) - 1
    count = min(step_tokens - others, spec.context_length - 1)
    if spec.num_pages < 2:
        raise ConfigError("a cache of one page holds nothing", hint="give it more memory")
    num_indexes = count // spec.page_size + 1
    indexes = np.concatenate((np.arange(num_indexes), np.zeros(others)))
    slots = np.concatenate((np.zeros(num_indexes), 1 + np.arange(others)))
    pages = 1 + np.arange(len(indexes)) % (spec.num_pages - 1)
    counts = np.concatenate(([count], np.ones(others)))
    ones = np.ones(others + 1)
    sampling = Sampling(top_p=0.9)
    return StepBatch(
        number=0,
        slots=ids(np.arange(others + 1)),
        starts=ids(np.zeros(others + 1)),
        counts=ids(counts),
        samples=ids(ones),
        logits=ids(ones),
        supplied=ids(counts),
        ahead=ids(np.zeros(others + 1)),
        tokens=ids(np.zeros(int(counts.sum()))),
        pages=(PageChanges(ids(slots), ids(indexes), ids(pages), NO_IDS, NO_IDS),),
        joins=tuple(Join(slot, sampling, 1, None, "") for slot in range(others + 1)),
    )
