"""Settle what the user left open. Every choice the machine makes is recorded with its reason.

A rule decides one field from what is settled before it, and changes nothing that was said. So no
setting is altered behind anyone's back, and `espalier explain` can print them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from espalier.config.cli import FIELDS
from espalier.config.engine import EngineSettings
from espalier.config.sizes import shown
from espalier.errors import ConfigError, NotBuilt
from espalier.front import plan
from espalier.loading.facts import ModelFacts, read_facts
from espalier.platforms.base import Platform


@dataclass(frozen=True, slots=True)
class Decision:
    field: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What rules look at: the settings so far, the model, the machine, the stored weights."""

    settings: EngineSettings
    facts: ModelFacts
    platform: Platform
    weights: int | None


Rule: TypeAlias = Callable[[Seen], tuple[Any, str]]


def resolve(
    settings: EngineSettings, facts: ModelFacts, platform: Platform, weights: int | None = None
) -> tuple[EngineSettings, tuple[Decision, ...]]:
    """The settings with nothing left open. Raises ConfigError when they cannot work together."""
    decisions: list[Decision] = []
    for path, rule in RULES.items():
        if _value(settings, path) in (None, "auto"):
            value, reason = rule(Seen(settings, facts, platform, weights))
            settings = _with(settings, path, value)
            decisions.append(Decision(path, value, reason))
    _check(settings, facts)
    _check_memory(Seen(settings, facts, platform, weights))
    return settings, tuple(decisions)


def explain_report(settings: EngineSettings, folder: Path, platform: Platform) -> str:
    """Each setting, its value, and why it has it."""
    facts = read_facts(folder)
    resolved, decisions = resolve(settings, facts, platform, plan.stored(folder))
    reasons = {one.field: one.reason for one in decisions}
    lines = [f"{facts.architecture} on {platform.name}", ""]
    for path, leaf in FIELDS.items():
        value = _value(resolved, path)
        said = _value(settings, path) != leaf.default
        reason = reasons.get(path) or ("it was said" if said else "the default")
        lines.append(f"{path:30} {_shown(path, value):24} {reason}")
    return "\n".join(lines)


def device(seen: Seen) -> tuple[str, str]:
    return seen.platform.device, f"this machine has {seen.platform.name}"


def dtype(seen: Seen) -> tuple[str, str]:
    return seen.facts.dtype, "the checkpoint's own"


def kv_dtype(seen: Seen) -> tuple[str, str]:
    return seen.settings.model.dtype, "the model's"


def attention(seen: Seen) -> tuple[str, str]:
    return "reference", f"the one backend that is built; it runs on {seen.platform.device}"


def threads(seen: Seen) -> tuple[int, str]:
    return seen.platform.cores, f"{seen.platform.cores} cores may be used"


def page_size(seen: Seen) -> tuple[int, str]:
    del seen
    return plan.PAGE_SIZE, "a match may end inside a page, so larger pages share no less"


def max_running(seen: Seen) -> tuple[int, str]:
    return plan.default_running(seen.platform), f"usual on {seen.platform.device}"


def look_ahead(seen: Seen) -> tuple[int, str]:
    if seen.platform.queues_work:
        return 1, "the device computes a step while the next is planned"
    return 0, "forward blocks on a CPU, so there is nothing to be ahead of"


def max_step_tokens(seen: Seen) -> tuple[int, str]:
    most = plan.default_step_tokens(seen.platform)
    settings = seen.settings
    drafts = settings.speculative.num_draft_tokens if settings.speculative.algorithm else 0
    least = _running(settings) * (1 + drafts) + 1
    if least > most:
        return least, f"a token and its drafts for each of {_running(settings)} running"
    return most, "large enough to keep the device busy"


def chunk_tokens(seen: Seen) -> tuple[int, str]:
    step = seen.settings.scheduler.max_step_tokens
    assert step is not None, "its rule goes before this one"
    return step, "a step may be one prompt's"


def context_length(seen: Seen) -> tuple[int, str]:
    return seen.facts.context_length, "the model's own"


def max_tokens(seen: Seen) -> tuple[int, str]:
    """What memory allows, and never more than the limits can use."""
    settings = seen.settings
    total, why = plan.budget(settings, seen.platform)
    running = _running(settings)
    needs = plan.needs("the model", seen.facts, settings, seen.weights, running)
    made = plan.plan(total, plan.process_bytes(seen.platform), [needs])
    share = made.shares[0]
    if not share.fits:
        raise ConfigError(
            f"the model does not fit: {shown(total)} ({why}), of which the weights take "
            f"{shown(needs.weights)} and {share.tokens} tokens of cache are left",
            hint="\n".join(["one of these would do:", *plan.ways_out(made)]),
        )
    if share.tokens >= needs.useful_tokens:
        return share.tokens, f"{running} requests of {needs.context_length} tokens use no more"
    return share.tokens, f"fits {shown(total)} ({why})"


RULES: dict[str, Rule] = {
    "kernels.device": device,
    "kernels.attention": attention,
    "kernels.threads": threads,
    "model.dtype": dtype,
    "model.context_length": context_length,
    "cache.dtype": kv_dtype,
    "cache.page_size": page_size,
    "scheduler.max_running": max_running,
    "scheduler.look_ahead": look_ahead,
    "scheduler.max_step_tokens": max_step_tokens,
    "scheduler.chunk_tokens": chunk_tokens,
    "cache.max_tokens": max_tokens,
}


def _check(settings: EngineSettings, facts: ModelFacts) -> None:
    """What was said must work together."""
    length = settings.model.context_length or facts.context_length
    if length > facts.context_length:
        raise ConfigError(
            f"--context-length {length} is more than the {facts.context_length} positions that "
            "the model was made for",
            hint="leave it out, or stretch the model by its config.json (rope_scaling)",
        )
    ranks = settings.parallel.tensor
    if facts.query_heads % ranks:
        raise ConfigError(
            f"{facts.query_heads} query heads cannot be split over {ranks} devices",
            hint=f"use a tensor-parallel size that divides {facts.query_heads}",
        )
    kept, computed = settings.cache.dtype, settings.model.dtype
    if kept != computed:
        raise NotBuilt(
            f"keys and values in {kept} beside a model in {computed} are not supported",
            hint="leave --kv-cache-dtype out, or choose --dtype for both",
        )
    if settings.kernels.deterministic and settings.kernels.device != "cpu":
        raise NotBuilt(
            f"--deterministic is not supported on {settings.kernels.device}",
            hint="leave it out; on a CPU every result is deterministic anyway",
        )
    tokens, page = settings.cache.max_tokens or 0, settings.cache.page_size or 1
    if tokens < page:
        raise ConfigError(
            f"a cache of {tokens} tokens holds no page of {page}",
            hint="raise --max-total-tokens, or lower --page-size",
        )


def _check_memory(seen: Seen) -> None:
    """What was said of memory must be there: a process that takes more is killed without a word."""
    settings, there = seen.settings, seen.platform.memory_bytes
    said = settings.cache.memory_bytes
    if said is not None and said > there:
        raise ConfigError(
            f"--memory is {shown(said)} and {seen.platform.name} has {shown(there)}",
            hint=f"at most {shown(there)}; without it, a share of that is taken",
        )
    needs = plan.needs("the model", seen.facts, settings, seen.weights, _running(settings))
    tokens = settings.cache.max_tokens or 0
    fixed = plan.process_bytes(seen.platform) + needs.fixed
    if fixed + tokens * needs.token_bytes > there:
        raise ConfigError(
            f"{shown(fixed)} for the model and {shown(tokens * needs.token_bytes)} for {tokens} "
            f"cached tokens are more than the {shown(there)} of {seen.platform.name}",
            hint=f"--max-total-tokens at most {max((there - fixed) // needs.token_bytes, 0)}",
        )


def _running(settings: EngineSettings) -> int:
    assert settings.scheduler.max_running is not None, "its rule goes before those that ask"
    return settings.scheduler.max_running


def _value(settings: EngineSettings, path: str) -> Any:
    group, _, name = path.partition(".")
    return getattr(getattr(settings, group), name)


def _with(settings: EngineSettings, path: str, value: Any) -> EngineSettings:
    group, _, name = path.partition(".")
    part = msgspec.structs.replace(getattr(settings, group), **{name: value})
    return msgspec.structs.replace(settings, **{group: part})


def _shown(path: str, value: Any) -> str:
    return shown(value) if path.endswith("_bytes") and value is not None else str(value)
