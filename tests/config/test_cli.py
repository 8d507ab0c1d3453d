"""From what users type to settings: our own flags, those of SGLang and vLLM, files and keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.config import words
from espalier.config.cli import from_keywords, help_text, parse
from espalier.config.engine import EngineSettings
from espalier.config.fields import BY_FLAG, FIELDS, is_switch
from espalier.errors import ConfigError, NotBuilt


def setting(settings: EngineSettings, path: str) -> Any:
    group, _, name = path.partition(".")
    return getattr(getattr(settings, group), name)


def parsed(line: str) -> EngineSettings:
    return parse(line.split()).settings


def test_nothing_said_is_the_defaults() -> None:
    assert parse([]).settings == EngineSettings() == from_keywords({}).settings


def test_every_setting_is_a_flag_and_a_keyword() -> None:
    values = {"model.dtype": "float32", "model.load_format": "dummy", "server.log_level": "debug"}
    for path in FIELDS:
        flag = f"--{path.replace('_', '-')}"
        value = values.get(path, "1")
        line = [flag] if is_switch(path) else [flag, value]
        assert parse(line).settings != EngineSettings() or path in (
            "parallel.tensor",
            "cache.sharing",
            "server.metrics",
        ), path
        assert flag in help_text()


def test_numbers_and_sizes_are_written_as_people_do() -> None:
    settings = parsed("--scheduler.max-step-tokens 8Ki --memory 6GB --max-total-tokens 32k")
    assert settings.scheduler.max_step_tokens == 8192
    assert settings.cache.memory_bytes == 6 << 30
    assert settings.cache.max_tokens == 32_000


def test_a_value_may_follow_an_equals_sign() -> None:
    assert parsed("--port=8000 --cache.sharing=false").server.port == 8000
    assert parsed("--port=8000 --cache.sharing=false").cache.sharing is False


def test_a_switch_is_turned_off_by_no() -> None:
    assert parsed("--no-cache.sharing").cache.sharing is False
    assert parsed("--cache.sharing").cache.sharing is True
    assert parsed("--no-server.metrics").server.metrics is False


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--max-num-seqs 4 --max-running-requests 8", ("--max-num-seqs", "--max-running-requests")),
        ("--cache.sharing --disable-radix-cache", ("--cache.sharing", "--disable-radix-cache")),
        ("--tp 2 --tensor-parallel-size 4", ("--tp", "--tensor-parallel-size")),
    ],
)
def test_two_spellings_that_differ_are_both_named(line: str, told: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        parsed(line)
    assert all(word in str(error.value) for word in told)


def test_memory_is_said_in_one_way() -> None:
    with pytest.raises(ConfigError, match="--memory and --mem-fraction-static are both given"):
        parsed("--memory 6GB --mem-fraction-static 0.5")


def test_two_spellings_that_agree_are_one() -> None:
    line = "--tp 2 --tensor-parallel-size 2 --mem-fraction-static 0.5 --gpu-memory-utilization 0.50"
    settings = parsed(line + " --api-key a --server.api-key a")
    assert (settings.parallel.tensor, settings.cache.memory_fraction) == (2, 0.5)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--max-runing-requests 4", "--max-running-requests"),
        ("--scheduler.max-runing 4", "--scheduler.max-running"),
        ("--modle-path x", "--model-path"),
        ("--disable-radix-cach", "--disable-radix-cache"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_nearest(line: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"is not known\n.*did you mean {hint}\?"):
        parsed(line)


def test_a_flag_like_no_other_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="--zzzqqq is not known"):
        parsed("--zzzqqq")
    with pytest.raises(ConfigError, match="zzzqqq is not known"):
        from_keywords({"zzzqqq": None})


def test_flags_are_not_shortened() -> None:
    with pytest.raises(ConfigError):
        parsed("--max-run 3")


def test_a_flag_without_its_value_says_so() -> None:
    for line in ("--port", "--port --host x"):
        with pytest.raises(ConfigError, match="--port needs a value"):
            parsed(line)
    with pytest.raises(ConfigError, match="takes no value"):
        parsed("--disable-radix-cache=maybe")


@pytest.mark.parametrize(
    "line",
    [
        "--port 0",
        "--port 65536",
        "--port x",
        "--port 1.5",
        "--mem-fraction-static 0",
        "--mem-fraction-static 1.5",
        "--mem-fraction-static nan",
        "--mem-fraction-static half",
        "--max-running-requests 0",
        "--tp 0",
        "--dtype float8",
        "--page-size -16",
        "--log-level loud",
        "--memory lots",
    ],
)
def test_a_value_out_of_bounds_names_the_flag_that_was_typed(line: str) -> None:
    with pytest.raises(ConfigError, match=rf"{line.split()[0]}.*{line.split()[1]}"):
        parsed(line)


def test_words_without_effect_say_why_and_change_nothing() -> None:
    for word in words.NOTICES:
        found = parse([f"--{word}"])
        assert found.settings == EngineSettings()
        assert [one for one in found.notices if f"--{word} has no effect: " in one]
    for word in words.VALUED_NOTICES:
        found = parse([f"--{word}", "8"])
        assert found.settings == EngineSettings()
        assert len(found.notices) == 1


def test_what_is_not_built_is_refused_by_name_with_a_way_out() -> None:
    lines = [[f"--{word}", "17"] for word in words.REFUSED]
    lines += [[f"--{word}"] for word in words.REFUSED_SWITCHES]
    for line in lines:
        with pytest.raises(NotBuilt) as error:
            parse(line)
        assert line[0] in error.value.message
        assert error.value.hint


def test_values_that_ask_for_nothing_are_accepted() -> None:
    for word, one in words.REFUSED.items():
        for value in one.harmless:
            assert parse([f"--{word}", value]).settings == EngineSettings()


@pytest.mark.parametrize(
    "line",
    [
        "--speculative-algorithm EAGLE",
        "--speculative-algorithm EAGLE3",
        "--kv-cache-dtype fp8_e5m2",
        "--attention-backend flashinfer",
        "--attention-backend fa3",
        "--load-format gguf",
        "--schedule-policy hrrn",
        "--quantization awq",
    ],
)
def test_values_of_the_peers_that_are_not_built_are_refused_by_name(line: str) -> None:
    with pytest.raises(NotBuilt, match=r"(?s)is not supported.*hint: ."):
        parsed(line)


def test_no_word_stands_in_two_tables_and_each_leads_somewhere() -> None:
    tables: list[Any] = [
        words.SETTINGS,
        BY_FLAG,
        words.SWITCHES,
        words.NOTICES,
        words.VALUED_NOTICES,
        words.REFUSED,
        words.REFUSED_SWITCHES,
    ]
    every = [word for table in tables for word in table]
    assert len(every) == len(set(every))
    assert set(words.SETTINGS.values()) <= set(FIELDS)
    assert {one.path for one in words.SWITCHES.values()} <= set(FIELDS)
    assert set(words.VALUES) | set(words.NOT_BUILT_VALUES) <= set(FIELDS)
    assert len(every) - len(BY_FLAG) >= 90  # of SGLang's and vLLM's best known


def test_a_file_speaks_in_either_way_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(
        "model-path: some/model\nmax_running_requests: 8\ndisable-radix-cache: true\n"
        "scheduler:\n  chunk_tokens: 1k\nenable-torch-compile: true\nserver:\n  port: 1234\n"
    )
    found = parse(["--max-num-seqs", "4", "--config", str(file)])
    assert found.settings.model.path == "some/model"
    assert found.settings.scheduler.max_running == 4
    assert found.settings.scheduler.chunk_tokens == 1000
    assert found.settings.server.port == 1234
    assert not found.settings.cache.sharing
    assert len(found.notices) == 1
    assert from_keywords({"config": str(file)}).settings.server.port == 1234


@pytest.mark.parametrize(
    "text",
    ["- a list", "max-runing: 3", "port: [1]", "disable-radix-cache: 3", "a: {b: 1}", "x: [", ""],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"wrong\.yaml"):
        parse(["--config", str(file)])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        parse(["--config", str(tmp_path / "none.yaml")])


def test_keywords_are_the_same_words(tmp_path: Path) -> None:
    found = from_keywords(
        {
            "model_path": tmp_path,
            "tp_size": 1,
            "mem_fraction_static": 0.5,
            "max_running_requests": 8,
            "dtype": torch.bfloat16,
            "context_length": 512,
            "random_seed": 3,
            "log_level": "error",
            "page_size": 16,
            "disable_radix_cache": True,
            "speculative_algorithm": "NGRAM",
            "speculative_num_draft_tokens": 5,
            "trust_remote_code": True,
            "quantization": None,
        }
    )
    line = (
        f"--model-path {tmp_path} --tp 1 --gpu-memory-utilization 0.5 --max-num-seqs 8 --seed 3 "
        "--dtype bfloat16 --max-model-len 512 --log-level error --block-size 16 --trust-remote-code "
        "--no-enable-prefix-caching --speculative-algorithm NGRAM --speculative-num-draft-tokens 5"
    )
    assert found.settings == parsed(line)
    assert found.notices == parse(line.split()).notices
    assert "never run" in found.notices[0]


def test_a_keyword_that_is_false_turns_its_switch_off() -> None:
    assert from_keywords({"disable_radix_cache": False}).settings.cache.sharing is True
    assert from_keywords({"enable_prefix_caching": False}).settings.cache.sharing is False
    assert from_keywords({"enable_lora": False, "enforce_eager": False}).notices == ()


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"max_runing_requests": 3}, "did you mean max_running_requests"),
        ({"disable_radix_cache": 1}, "on or off"),
        ({"port": "many"}, "port = 'many'"),
        ({"port": 1.5}, "port = 1.5"),
        ({"model_path": 7}, "model_path = 7"),
        ({"dp_size": 2}, "dp_size 2 is not supported"),
        ({"enable_lora": True}, "enable_lora is not supported"),
    ],
)
def test_wrong_keywords_are_refused_by_name(keywords: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        from_keywords(keywords)


def test_a_key_is_never_shown() -> None:
    settings = parsed("--api-key hunter2 --admin-api-key hunter3")
    assert settings.server.api_key is not None
    assert settings.server.api_key.reveal() == "hunter2"
    assert "hunter" not in repr(settings)
    with pytest.raises(ConfigError) as error:
        parsed("--api-key hunter2 --server.api-key hunter3")
    assert "hunter" not in str(error.value)


def test_a_literal_none_of_the_tables_knows_is_kept_for_the_command() -> None:
    assert parse(["a/model", "--port", "8000", "other"]).rest == ("a/model", "other")


@given(
    st.lists(
        st.one_of(
            st.sampled_from([f"--{word}" for word in (*words.SETTINGS, *words.SWITCHES, *BY_FLAG)]),
            st.text(max_size=8),
            st.sampled_from(["0", "1", "-1", "0.5", "true", "8k", "ngram", "float32"]),
        ),
        max_size=8,
    )
)
def test_whatever_is_typed_is_settings_or_a_config_error(argv: list[str]) -> None:
    try:
        found = parse(argv)
    except ConfigError:
        return
    assert isinstance(found.settings, EngineSettings)
