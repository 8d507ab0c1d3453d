"""What is left open is settled with a reason; what was said stays; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from espalier.config.cache import CacheSettings
from espalier.config.engine import EngineSettings
from espalier.config.features import SpeculativeSettings
from espalier.config.kernels import KernelSettings
from espalier.config.model import ModelSettings
from espalier.config.parallel import ParallelSettings
from espalier.config.scheduler import SchedulerSettings
from espalier.errors import ConfigError, NotBuilt
from espalier.front.resolve import RULES, explain_report, resolve
from espalier.platforms.base import GIB, Platform, known_device
from tests.front.checkpoints import LLAMA_8B, TINY, facts_of, folder_of

CPU = Platform(device="cpu", name="a CPU", memory_bytes=32 * GIB, cores=8)
H200 = known_device("h200")
FACTS = facts_of(TINY)


@pytest.mark.parametrize("platform", [CPU, H200], ids=["cpu", "h200"])
def test_nothing_is_left_open_and_all_of_it_explained(platform: Platform) -> None:
    settings, decisions = resolve(EngineSettings(), FACTS, platform)
    for path in RULES:
        group, _, name = path.partition(".")
        assert getattr(getattr(settings, group), name) not in (None, "auto"), path
    assert {one.field for one in decisions} == set(RULES)
    assert all(one.reason for one in decisions)


def test_resolving_again_changes_nothing() -> None:
    settings, _ = resolve(EngineSettings(), FACTS, CPU)
    assert resolve(settings, FACTS, CPU) == (settings, ())


SAID = {
    "model": ModelSettings(dtype="float32", context_length=100),
    "cache": CacheSettings(page_size=1, max_tokens=5000),
    "scheduler": SchedulerSettings(
        max_running=3, max_step_tokens=77, chunk_tokens=5, look_ahead=1, policy="lpm"
    ),
    "kernels": KernelSettings(threads=1),
}


@pytest.mark.parametrize("group", SAID)
def test_what_was_said_is_never_changed(group: str) -> None:
    said = msgspec.structs.replace(EngineSettings(), **{group: SAID[group]})
    settings, decisions = resolve(said, FACTS, CPU)
    after = getattr(settings, group)
    for name in SAID[group].__struct_fields__:
        value = getattr(SAID[group], name)
        if value not in (None, "auto"):
            assert getattr(after, name) == value, name
            assert f"{group}.{name}" not in {one.field for one in decisions}


def test_the_dtype_is_the_checkpoints_own_on_a_cpu_too() -> None:
    assert resolve(EngineSettings(), FACTS, CPU)[0].model.dtype == "bfloat16"


def test_a_device_that_queues_work_is_planned_ahead_of() -> None:
    assert resolve(EngineSettings(), FACTS, CPU)[0].scheduler.look_ahead == 0
    assert resolve(EngineSettings(), FACTS, H200)[0].scheduler.look_ahead == 1


def test_the_cache_is_never_larger_than_the_limits_can_use() -> None:
    said = EngineSettings(scheduler=SchedulerSettings(max_running=2))
    settings, decisions = resolve(said, FACTS, H200)
    assert settings.cache.max_tokens == 2 * 4096
    reason = next(one.reason for one in decisions if one.field == "cache.max_tokens")
    assert reason == "2 requests of 4096 tokens use no more"


def test_the_cache_is_what_the_weights_leave_of_the_share() -> None:
    facts = facts_of(LLAMA_8B)
    sizes = []
    for fraction in (0.6, 0.7):
        said = EngineSettings(cache=CacheSettings(memory_fraction=fraction))
        sizes.append(resolve(said, facts, CPU, 16 * GIB)[0].cache.max_tokens)
    per_token = 2 * 32 * 8 * 128 * 2 + 4
    assert sizes[1] - sizes[0] == pytest.approx(0.1 * 32 * GIB / per_token, abs=1)


def test_a_step_has_room_for_a_token_and_its_drafts_of_everybody() -> None:
    said = EngineSettings(
        scheduler=SchedulerSettings(max_running=500),
        speculative=SpeculativeSettings(algorithm="ngram", num_draft_tokens=7),
    )
    assert resolve(said, FACTS, CPU)[0].scheduler.max_step_tokens == 500 * 8 + 1


def test_a_model_that_does_not_fit_is_told_with_ways_out() -> None:
    facts = facts_of(LLAMA_8B)
    with pytest.raises(ConfigError, match=r"(?s)does not fit: .*1\. .*2\. .*3\. "):
        resolve(EngineSettings(cache=CacheSettings(memory_bytes=8 * GIB)), facts, CPU, 16 * GIB)


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        (
            EngineSettings(parallel=ParallelSettings(tensor=3)),
            ConfigError,
            "4 query heads cannot be split over 3",
        ),
        (
            EngineSettings(cache=CacheSettings(dtype="float16")),
            NotBuilt,
            "float16 beside a model in bfloat16",
        ),
        (
            EngineSettings(cache=CacheSettings(page_size=64, max_tokens=63)),
            ConfigError,
            "a cache of 63 tokens holds no page of 64",
        ),
        (
            EngineSettings(model=ModelSettings(context_length=4097)),
            ConfigError,
            "--context-length 4097 is more than the 4096",
        ),
        (
            EngineSettings(cache=CacheSettings(memory_bytes=33 * GIB)),
            ConfigError,
            r"--memory is 33\.00 GiB and a CPU has 32\.00 GiB",
        ),
        (
            EngineSettings(cache=CacheSettings(max_tokens=10**9)),
            ConfigError,
            r"(?s)1000000000 cached tokens are more .*--max-total-tokens at most \d{6,}",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(
    said: EngineSettings, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        resolve(said, FACTS, CPU)


def test_following_the_hint_about_cached_tokens_works() -> None:
    said = EngineSettings(cache=CacheSettings(max_tokens=10**9))
    with pytest.raises(ConfigError) as refused:
        resolve(said, FACTS, CPU)
    most = int(refused.value.hint.rpartition(" ")[2])
    settings, _ = resolve(EngineSettings(cache=CacheSettings(max_tokens=most)), FACTS, CPU)
    assert settings.cache.max_tokens == most


def test_deterministic_is_refused_where_it_does_not_hold() -> None:
    said = EngineSettings(kernels=KernelSettings(deterministic=True))
    resolve(said, FACTS, CPU)
    with pytest.raises(NotBuilt, match="--deterministic"):
        resolve(said, FACTS, H200)


def test_the_explanation_names_every_setting_and_why(tmp_path: Path) -> None:
    said = EngineSettings(scheduler=SchedulerSettings(max_running=7))
    report = explain_report(said, folder_of(tmp_path, TINY), CPU)
    assert re_line(report, "scheduler.max_running") == ["7", "it was said"]
    assert re_line(report, "model.dtype") == ["bfloat16", "the checkpoint's own"]
    assert re_line(report, "cache.sharing") == ["True", "the default"]


def re_line(report: str, path: str) -> list[str]:
    line = next(line for line in report.splitlines() if line.startswith(f"{path} "))
    value, _, reason = line.removeprefix(path).strip().partition(" ")
    return [value, reason.strip()]
