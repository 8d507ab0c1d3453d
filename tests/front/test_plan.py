"""The memory plan: bytes are right, nobody gets more than there is, and the ways out lead out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from espalier.config.cache import CacheSettings
from espalier.config.engine import EngineSettings
from espalier.config.model import ModelSettings
from espalier.config.parallel import ParallelSettings
from espalier.config.scheduler import SchedulerSettings
from espalier.config.sizes import size_bytes
from espalier.errors import CheckpointError, ConfigError
from espalier.front.plan import (
    TOKEN_BYTES,
    ModelNeeds,
    budget,
    cache_layout,
    needs,
    num_parameters,
    plan,
    plan_report,
    stored,
    ways_out,
)
from espalier.loading.facts import model_facts
from espalier.platforms.base import GIB, Platform, known_device
from tests.front.checkpoints import LLAMA_8B, TINY, facts_of, folder_of

CPU = Platform(device="cpu", name="a CPU", memory_bytes=32 * GIB, cores=8)
LLAMA = facts_of(LLAMA_8B)


def test_keys_and_values_of_a_token_are_counted_to_the_byte() -> None:
    layout = cache_layout(LLAMA, "bfloat16", 16)
    assert layout.bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert layout.bytes_per_page == 16 * layout.bytes_per_token
    assert [layout.pages(tokens) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]
    assert (
        cache_layout(LLAMA, "bfloat16", 16, ranks=4).bytes_per_token == layout.bytes_per_token / 4
    )


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        (transformers.LlamaConfig(num_key_value_heads=8, vocab_size=4000), "LlamaForCausalLM"),
        (transformers.LlamaConfig(tie_word_embeddings=True), "LlamaForCausalLM"),
        (transformers.Qwen2Config(num_key_value_heads=8), "Qwen2ForCausalLM"),
        (transformers.Qwen3MoeConfig(num_experts=8, num_local_experts=8), "Qwen3MoeForCausalLM"),
        (transformers.MixtralConfig(num_hidden_layers=4), "MixtralForCausalLM"),
        (transformers.Gemma2Config(), "Gemma2ForCausalLM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parameters_computed_from_a_config_are_those_of_the_model(
    config: transformers.PreTrainedConfig, architecture: str
) -> None:
    import torch

    with torch.device("meta"):
        model = getattr(transformers, architecture)(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    computed = num_parameters(model_facts({**config.to_dict(), "architectures": [architecture]}))
    assert computed == pytest.approx(counted, rel=0.02)


def test_weights_are_counted_in_the_files_where_there_are_some(tmp_path: Path) -> None:
    assert stored(folder_of(tmp_path / "config alone", TINY)) is None
    assert stored(folder_of(tmp_path / "whole", TINY, weights=123_456)) == 123_456
    damaged = folder_of(tmp_path / "damaged", TINY, weights=1000)
    with (damaged / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        stored(damaged)


def test_another_dtype_takes_other_bytes() -> None:
    half = needs("m", LLAMA, EngineSettings(), 16 * GIB, 32)
    full = needs("m", LLAMA, EngineSettings(model=ModelSettings(dtype="float32")), 16 * GIB, 32)
    assert (half.weights, full.weights) == (16 * GIB, 32 * GIB)
    assert full.token_bytes - TOKEN_BYTES == 2 * (half.token_bytes - TOKEN_BYTES)
    split = needs("m", LLAMA, EngineSettings(parallel=ParallelSettings(tensor=4)), 16 * GIB, 32)
    assert split.weights == 4 * GIB


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (CacheSettings(memory_bytes=6 * GIB), 6 * GIB),
        (CacheSettings(memory_fraction=0.5), 16 * GIB),
        (CacheSettings(memory_bytes=6 * GIB, memory_fraction=0.5), 6 * GIB),
    ],
)
def test_memory_is_bytes_or_a_share_of_the_whole_device(
    cache: CacheSettings, expected: int
) -> None:
    assert budget(EngineSettings(cache=cache), CPU)[0] == expected


models = st.builds(
    ModelNeeds,
    name=st.text("abcdef", min_size=1, max_size=8),
    weights=st.integers(0, 10**9),
    workspace=st.integers(0, 10**6),
    token_bytes=st.integers(1, 10**5),
    heads=st.integers(1, 64),
    context_length=st.integers(1, 10**5),
    max_running=st.integers(1, 256),
    useful_tokens=st.integers(1, 10**7),
    exact=st.booleans(),
)


@given(
    total=st.integers(0, 10**10),
    process=st.integers(0, 10**8),
    wanted=st.lists(models, min_size=1, max_size=4, unique_by=lambda one: one.name),
)
def test_a_plan_never_gives_more_than_there_is_or_than_can_be_used(
    total: int, process: int, wanted: list[ModelNeeds]
) -> None:
    made = plan(total, process, wanted)
    used = process + sum(share.bytes for share in made.shares)
    assert [share.needs for share in made.shares] == wanted
    assert all(0 <= share.tokens <= share.needs.useful_tokens for share in made.shares)
    if any(share.tokens for share in made.shares):
        assert used <= total
    # Whoever could use more did not get it because nothing to speak of is left.
    for share in made.shares:
        if share.tokens < share.needs.useful_tokens:
            left = max(total - used, 0)
            assert left < sum(one.needs.token_bytes for one in made.shares)


def test_what_one_model_cannot_use_goes_to_the_others() -> None:
    common = {
        "weights": 0,
        "workspace": 0,
        "heads": 1,
        "context_length": 10,
        "max_running": 1,
        "exact": True,
    }
    small = ModelNeeds(name="small", token_bytes=1, useful_tokens=10, **common)
    large = ModelNeeds(name="large", token_bytes=1, useful_tokens=1000, **common)
    made = plan(100, 0, [small, large])
    assert [share.tokens for share in made.shares] == [10, 90]


def test_the_report_of_what_fits(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, LLAMA_8B, weights=16 * GIB)
    report = plan_report([("llama", folder)], EngineSettings(), CPU)
    assert "It fits." in report
    assert re.search(r"weights +16\.00 GiB +as stored", report)
    assert "of the full context of 8192" in report


@pytest.mark.parametrize(("device", "fits"), [("h200", True), ("rtx5090", True), ("t4", False)])
def test_a_plan_needs_neither_the_device_nor_the_weights(
    device: str, fits: bool, tmp_path: Path
) -> None:
    report = plan_report(
        [("llama", folder_of(tmp_path, LLAMA_8B))], EngineSettings(), known_device(device)
    )
    assert ("It fits." in report) == fits
    assert ("3. spread it over" in report) != fits
    (gib,) = re.findall(r"weights +([\d.]+) GiB +computed from the config", report)
    exact = 8_030_261_248 * 2 / GIB  # as its files have it
    assert float(gib) == pytest.approx(exact, rel=0.001)


def test_several_models_share_one_plan(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "a", LLAMA_8B, weights=8 * GIB)
    other = folder_of(tmp_path / "b", TINY)
    report = plan_report([("large", one), ("tiny", other)], EngineSettings(), CPU)
    assert report.index("large") < report.index("tiny")
    assert "computed from the config" in report


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="no model is named"):
        plan_report([], EngineSettings(), CPU)


@pytest.mark.parametrize("gib", [3, 4, 7, 16.2, 16.45, 16.5])
def test_the_ways_out_lead_out(gib: float) -> None:
    def of(context_length: int, ranks: int = 1) -> ModelNeeds:
        settings = EngineSettings(
            scheduler=SchedulerSettings(max_step_tokens=256),
            model=ModelSettings(context_length=context_length),
            parallel=ParallelSettings(tensor=ranks),
        )
        return needs("llama", LLAMA, settings, 16 * GIB, 8)

    total = int(gib * GIB)
    made = plan(total, 0, [of(8192)])
    assert not made.fits
    memory, second, third = ways_out(made)
    enough = size_bytes(re.search(r"[\d.]+ GiB", memory).group().replace(" ", ""), "memory")
    assert plan(enough, 0, [of(8192)]).fits
    if "--context-length" in second:
        assert plan(total, 0, [of(int(second.rpartition(" ")[2]))]).fits
    else:
        assert "16.00 GiB" in second
    ranks = int(third.rpartition(" ")[2])
    assert LLAMA.query_heads % ranks == 0
    assert plan(total, 0, [of(8192, ranks)]).fits


def test_no_number_of_devices_is_named_where_none_would_do() -> None:
    wanted = needs("llama", LLAMA, EngineSettings(), 16 * GIB, 8)
    third = ways_out(plan(GIB // 4, 0, [wanted]))[2]
    assert "no number of devices" in third
