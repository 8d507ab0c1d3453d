"""From resolved settings to a loop that runs: the worker, the cache, the scheduler, in one process.

What is left open in the settings was settled before (`front/resolve.py`); here nothing is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from espalier.cache.prefix import PrefixCache
from espalier.config.engine import EngineSettings
from espalier.engine.loop import Loop
from espalier.loading.facts import ModelFacts
from espalier.protocol.messages import StepOutput
from espalier.scheduler.plan import Limits
from espalier.scheduler.scheduler import Scheduler
from espalier.speculative.base import PROPOSERS, Proposer
from espalier.worker.executor import Executor, LocalExecutor
from espalier.worker.ranked import RankedExecutor
from espalier.worker.worker import Worker, WorkerSpec

QUEUED_CACHES = 4  # prompts that may wait, in caches full


@dataclass(frozen=True, slots=True)
class Built:
    loop: Loop
    scheduler: Scheduler
    executor: Executor
    limits: Limits


def build(
    settings: EngineSettings,
    facts: ModelFacts,
    folder: Path,
    on_output: Callable[[StepOutput], None],
) -> Built:
    """Load the model and make everything around it. Raises ConfigError's children."""
    limits = limits_of(settings, facts)
    page_size = limits.page_size
    num_pages = limits.capacity // page_size + 1  # page 0 belongs to nobody
    cache = PrefixCache(
        num_pages,
        page_size,
        sharing=settings.cache.sharing,
        eviction=settings.cache.eviction,
        max_cached_tokens=settings.cache.max_cached_tokens,
    )
    itl = settings.scheduler.target_itl_ms
    scheduler = Scheduler(
        limits,
        cache,
        time.monotonic,
        policy=settings.scheduler.policy,
        target_itl_s=None if itl is None else itl / 1e3,
        proposer=_proposer(settings),
    )
    executor = _executor(settings, folder, num_pages, limits)
    loop = Loop(scheduler, executor, on_output, look_ahead=limits.look_ahead)
    return Built(loop, scheduler, executor, limits)


def limits_of(settings: EngineSettings, facts: ModelFacts) -> Limits:
    cache, steps = settings.cache, settings.scheduler
    tokens = _settled(cache.max_tokens, "cache.max_tokens")
    page_size = _settled(cache.page_size, "cache.page_size")
    capacity = tokens // page_size * page_size
    max_running = _settled(steps.max_running, "scheduler.max_running")
    drafts = settings.speculative.num_draft_tokens if settings.speculative.algorithm else 0
    budget = _settled(steps.max_step_tokens, "scheduler.max_step_tokens")
    context = _settled(settings.model.context_length, "model.context_length")
    return Limits(
        max_step_tokens=max(budget, max_running * (1 + drafts) + 1),
        chunk_tokens=_settled(steps.chunk_tokens, "scheduler.chunk_tokens"),
        max_running=max_running,
        page_size=page_size,
        context_length=min(context, capacity),
        vocabulary=facts.vocabulary,
        capacity=capacity,
        max_queued=steps.max_queued,
        max_queued_tokens=steps.max_queued_tokens or QUEUED_CACHES * capacity,
        look_ahead=_settled(steps.look_ahead, "scheduler.look_ahead"),
        max_drafts=drafts,
        queue_timeout_s=steps.queue_timeout_s,
    )


def _settled(value: int | None, name: str) -> int:
    assert value is not None, f"{name} is settled by resolve"
    return value


def _proposer(settings: EngineSettings) -> Proposer | None:
    algorithm = settings.speculative.algorithm
    return None if algorithm is None else PROPOSERS.get(algorithm)()


def _executor(settings: EngineSettings, folder: Path, num_pages: int, limits: Limits) -> Executor:
    spec = WorkerSpec(
        folder=str(folder),
        num_pages=num_pages,
        page_size=limits.page_size,
        max_running=limits.max_running,
        context_length=_settled(settings.model.context_length, "model.context_length"),
        dtype=settings.model.dtype,
        device=settings.kernels.device,
        load_format="dummy" if settings.model.load_format == "dummy" else "safetensors",
        attention=settings.kernels.attention,
        threads=settings.kernels.threads or 0,
    )
    if settings.parallel.tensor > 1:
        return RankedExecutor.start(spec, settings.parallel.tensor)
    return LocalExecutor(Worker.build(spec))
