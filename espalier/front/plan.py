"""Memory in bytes, before anything is loaded: weights, what a step needs, and tokens that fit.

Pure arithmetic over a model's facts and a device's description, so it plans for devices that are
not there. Several models share one plan: each takes what it must have, the rest is theirs in equal
parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from espalier.cache.layout import ITEM_BYTES, CacheLayout, GroupLayout
from espalier.config.engine import EngineSettings
from espalier.config.sizes import shown
from espalier.errors import ConfigError
from espalier.loading.facts import ModelFacts, read_facts
from espalier.loading.files import has_weights, tensor_entries, weight_bytes
from espalier.platforms.base import Platform

PROCESS_BYTES = 450 * 2**20  # interpreter, torch and its libraries, as measured on a CPU
DEFAULT_SHARE = 0.85  # of a device, when nothing is said
PAGE_SIZE = 16
STEP_TOKENS = 2048
TOKEN_BYTES = 4  # each cached token's id stands beside its keys and values


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeeds:
    """What one model takes, by itself."""

    name: str
    weights: int
    workspace: int
    token_bytes: int  # keys and values of one token, its id included
    heads: int  # of queries; they are split over devices whole
    context_length: int
    max_running: int
    useful_tokens: int  # more than this no limits could ever use
    exact: bool  # the weights were counted in the files, not computed from the config

    @property
    def fixed(self) -> int:
        return self.weights + self.workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One model's part of the memory."""

    needs: ModelNeeds
    tokens: int  # that its cache holds

    @property
    def bytes(self) -> int:
        return self.needs.fixed + self.tokens * self.needs.token_bytes

    @property
    def fits(self) -> bool:
        return self.tokens >= min(self.needs.context_length, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    total: int
    process: int
    shares: tuple[Share, ...]

    @property
    def fits(self) -> bool:
        return all(share.fits for share in self.shares)


def needs(
    name: str, facts: ModelFacts, settings: EngineSettings, weights: int | None, max_running: int
) -> ModelNeeds:
    """`weights` None: computed from the config."""
    dtype = facts.dtype if settings.model.dtype == "auto" else settings.model.dtype
    item = ITEM_BYTES.get(dtype, 2)
    ranks = settings.parallel.tensor
    stored = ITEM_BYTES.get(facts.dtype, 2)
    size = num_parameters(facts) * item if weights is None else weights * item // stored
    context = settings.model.context_length or facts.context_length
    kv_dtype = dtype if settings.cache.dtype == "auto" else settings.cache.dtype
    layout = cache_layout(facts, kv_dtype, settings.cache.page_size or PAGE_SIZE, ranks)
    return ModelNeeds(
        name=name,
        weights=size // ranks,
        workspace=workspace(facts, settings.scheduler.max_step_tokens or STEP_TOKENS, item),
        token_bytes=layout.bytes_per_token + TOKEN_BYTES,
        heads=facts.query_heads // ranks,
        context_length=min(context, settings.cache.max_tokens or context),
        max_running=max_running,
        useful_tokens=min(
            context * max_running, settings.cache.max_tokens or context * max_running
        ),
        exact=weights is not None,
    )


def plan(total: int, process: int, models: Sequence[ModelNeeds]) -> MemoryPlan:
    """Share out what is left after everybody's weights; nobody gets more than it can use."""
    left = total - process - sum(model.fixed for model in models)
    tokens = {model.name: 0 for model in models}
    hungry = list(models)
    while hungry and left > 0:
        part = left // len(hungry)
        sated = [one for one in hungry if one.useful_tokens * one.token_bytes <= part]
        for one in sated or hungry:
            granted = one.useful_tokens if sated else part // one.token_bytes
            tokens[one.name] = granted
            left -= granted * one.token_bytes
        hungry = [one for one in hungry if one not in sated] if sated else []
    shares = tuple(Share(needs=one, tokens=tokens[one.name]) for one in models)
    return MemoryPlan(total=total, process=process, shares=shares)


def budget(settings: EngineSettings, platform: Platform) -> tuple[int, str]:
    """The bytes an engine may use, and why so many."""
    cache = settings.cache
    if cache.memory_bytes is not None:
        return cache.memory_bytes, "it was said"
    if cache.memory_fraction is not None:
        size = int(platform.memory_bytes * cache.memory_fraction)
        return size, f"{cache.memory_fraction} of the whole device, weights included"
    size = int(platform.memory_bytes * DEFAULT_SHARE)
    return size, f"{DEFAULT_SHARE} of {platform.name}'s {shown(platform.memory_bytes)}"


def cache_layout(facts: ModelFacts, dtype: str, page_size: int, ranks: int = 1) -> CacheLayout:
    group = GroupLayout(
        layers=facts.layers,
        key_value_heads=max(facts.key_value_heads // ranks, 1),
        head_size=facts.head_size,
        dtype=dtype,
    )
    return CacheLayout(groups=(group,), page_size=page_size)


def num_parameters(facts: ModelFacts) -> int:
    """From the shapes of a usual decoder; within a few per cent of what the files hold."""
    queries = facts.query_heads * facts.head_size
    keys = facts.key_value_heads * facts.head_size
    attention = facts.hidden * (2 * queries + 2 * keys)
    dense = 3 * facts.hidden * facts.intermediate
    sparse = facts.experts * dense + facts.hidden * facts.experts
    sparse += 3 * facts.hidden * facts.shared_expert
    num_dense = len(facts.dense_layers) if facts.experts else facts.layers
    own = 3 * facts.hidden * (facts.dense_intermediate or facts.intermediate)
    mlps = num_dense * own + (facts.layers - num_dense) * sparse
    embeddings = facts.vocabulary * facts.hidden * (1 if facts.tied else 2)
    norms = (2 * facts.layers + 1) * facts.hidden
    return facts.layers * attention + mlps + embeddings + norms


def workspace(facts: ModelFacts, step_tokens: int, item: int) -> int:
    """What the largest step holds beside weights and cache: its widest layer, and logits."""
    widest = max(facts.intermediate, facts.dense_intermediate) * 3 + facts.hidden * 6
    rows = min(step_tokens, 256)
    return step_tokens * widest * item + rows * facts.vocabulary * 4 * 3


def plan_report(
    models: Sequence[tuple[str, Path]], settings: EngineSettings, platform: Platform
) -> str:
    """A table to be read, and three ways out when it does not fit."""
    if not models:
        raise ConfigError("no model is named", hint="espalier plan MODEL --memory 32GB")
    total, why = budget(settings, platform)
    running = settings.scheduler.max_running or default_running(platform)
    step = settings.scheduler.max_step_tokens or default_step_tokens(platform)
    scheduler = structs.replace(settings.scheduler, max_step_tokens=step)
    settings = structs.replace(settings, scheduler=scheduler)
    wanted = [
        needs(name, read_facts(folder), settings, stored(folder), running)
        for name, folder in models
    ]
    process = process_bytes(platform)
    made = plan(total, process, wanted)
    lines = [
        f"Memory plan for {platform.name}: {shown(total)} ({why})",
        f"  process       {shown(process):>12}   interpreter and libraries",
    ]
    for share in made.shares:
        lines += _lines(share)
    used = process + sum(share.bytes for share in made.shares)
    lines.append(f"  left          {shown(max(total - used, 0)):>12}")
    if made.fits:
        lines.append("It fits.")
    else:
        lines += ["It does not fit. Ways out:", *ways_out(made)]
    return "\n".join(lines)


def process_bytes(platform: Platform) -> int:
    """What is taken before any model: interpreter, libraries, the driver's context."""
    return PROCESS_BYTES + platform.reserved_bytes


def default_step_tokens(platform: Platform) -> int:
    """A step of 512 keeps a few cores busy and lets a stream wait little; a device needs more."""
    return 512 if platform.device == "cpu" else 8192


def default_running(platform: Platform) -> int:
    return 32 if platform.device == "cpu" else 256


def _lines(share: Share) -> list[str]:
    one = share.needs
    counted = "as stored" if one.exact else "computed from the config"
    full = share.tokens // max(one.context_length, 1)
    holds = f"  holds {full} requests of the full context of {one.context_length}"
    if not full:
        holds = f"  holds requests of {share.tokens} tokens, not of the full {one.context_length}"
    return [
        f"{one.name}",
        f"  weights       {shown(one.weights):>12}   {counted}",
        f"  workspace     {shown(one.workspace):>12}   the largest step",
        (
            f"  cache         {shown(share.tokens * one.token_bytes):>12}   {share.tokens} tokens, "
            f"{shown(one.token_bytes * 1000)} per thousand"
        ),
        f"{holds}, {one.max_running} running at most",
    ]


def ways_out(made: MemoryPlan) -> list[str]:
    """Three, with numbers that would do."""
    fixed = sum(share.needs.fixed for share in made.shares)
    context = sum(share.needs.context_length * share.needs.token_bytes for share in made.shares)
    weights = sum(share.needs.weights for share in made.shares)
    left = made.total - made.process - fixed
    out = [f"  1. give it {shown(made.process + fixed + context)}: --memory, or a larger device"]
    if left > 0:
        each = left // max(sum(share.needs.token_bytes for share in made.shares), 1)
        out.append(f"  2. a shorter context: --context-length {max(each, 1)}")
    else:
        out.append(
            f"  2. a smaller model: the weights alone take {shown(weights)} of {shown(made.total)}"
        )
    ranks = _fewest_devices(made)
    if ranks:
        out.append(f"  3. spread it over {ranks} devices like this one: --tp {ranks}")
    else:
        out.append(
            "  3. a smaller dtype or a smaller model: no number of devices like this would do"
        )
    return out


def _fewest_devices(made: MemoryPlan) -> int:
    """How many of these would hold it, 0 if none: each has a part of the weights and the cache."""
    models = [share.needs for share in made.shares]
    whole = made.process + sum(one.workspace for one in models)
    split = sum(one.weights + one.context_length * one.token_bytes for one in models)
    for ranks in range(2, max((one.heads for one in models), default=0) + 1):
        divides = all(one.heads % ranks == 0 for one in models)
        if divides and whole + -(-split // ranks) <= made.total:
            return ranks
    return 0


def stored(folder: Path) -> int | None:
    """The bytes of the weights in the files, or None where there is only a config.

    Raises CheckpointError for files that are damaged: better now than when memory is taken.
    """
    return weight_bytes(tensor_entries(folder).values()) if has_weights(folder) else None
