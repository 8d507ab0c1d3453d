"""Flags that SGLang and vLLM know by the dozen are refused for what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from espalier.config import words
from espalier.config.cli import from_keywords, parse
from espalier.config.engine import EngineSettings
from espalier.config.families import FAMILIES, way_out
from espalier.config.fields import BY_FLAG
from espalier.errors import ConfigError, NotBuilt

EVERY_FLAG = Path(__file__).parents[3] / "shared" / "reference" / "sglang-flags.md"


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("hicache-io-backend", "tiers of the cache"),
        ("disaggregation-decode-polling-interval", "one engine computes both"),
        ("max-lora-chunk-size", "adapters"),
        ("speculative-ngram-max-trie-depth", "--speculative-algorithm NGRAM"),
        ("media-url-max-file-size-mb", "text only"),
        ("mamba-ssm-dtype", "model that is not built"),
        ("modelopt-quant", "quantized weights"),
        ("ep-num-redundant-experts", "--tp"),
        ("offload-group-size", "`espalier plan`"),
        ("nccl-port", "--tp"),
        ("fp8-gemm-backend", "`espalier explain`"),
        ("cuda-graph-backend-decode", "graphs"),
        ("weight-loader-disable-mmap", "safetensors"),
        ("ssl-ca-certs", "proxy"),
        ("grpc-port", "server is not built"),
        ("otlp-traces-endpoint", "Engine.statistics"),
        ("prefill-max-requests", "token budget"),
        ("constrained-json-whitespace-pattern", "structured output"),
        ("pooler-config", "embeddings"),
        ("worker-cls", "code is never loaded"),
    ],
)
def test_a_flag_of_a_capability_that_is_not_built_is_refused_by_name(flag: str, told: str) -> None:
    for line in ([f"--{flag}", "7"], [f"--{flag}=7"], [f"--{flag}"]):
        with pytest.raises(NotBuilt, match=f"--{flag} is not supported") as error:
            parse(line)
        assert told in error.value.hint
    keyword = flag.replace("-", "_")
    with pytest.raises(NotBuilt, match=f"{keyword} is not supported"):
        from_keywords({keyword: 7})
    assert from_keywords({keyword: None}).settings == EngineSettings()


def test_a_typing_error_in_a_flag_that_is_built_is_told_even_there() -> None:
    for flag, meant in (
        ("speculative-num-draft-token", "--speculative-num-draft-tokens"),
        ("enable-flashinfers", "--enable-flashinfer"),
        ("disable-cuda-graphs", "--disable-cuda-graph"),
    ):
        assert way_out(flag)
        with pytest.raises(ConfigError, match=f"did you mean {meant}"):
            parse([f"--{flag}", "5"])


def test_no_family_claims_a_setting_but_by_its_exact_word() -> None:
    for word in (*words.SETTINGS, *words.SWITCHES, *BY_FLAG):
        try:
            parse([f"--{word}", "1"])
        except NotBuilt as error:
            pytest.fail(str(error))
        except ConfigError:
            pass  # 1 is no value of it


def test_every_family_has_a_way_out_and_no_pattern_stands_twice() -> None:
    patterns = [pattern for _, listed in FAMILIES for pattern in listed.split()]
    assert len(patterns) == len(set(patterns))
    assert all(len(hint) > 10 for hint, _ in FAMILIES)
    assert way_out("zzzqqq") is None


@pytest.mark.skipif(not EVERY_FLAG.exists(), reason="the list does not lie beside the project")
def test_no_flag_of_sglang_is_unknown() -> None:
    listed = EVERY_FLAG.read_text(encoding="utf-8").partition("### A.1")[0]
    flags = set(re.findall(r"--([a-z0-9][\w-]*)", listed))
    assert len(flags) > 500
    assert [flag for flag in sorted(flags) if "is not known" in _refusal(flag)] == []


def _refusal(flag: str) -> str:
    try:
        parse([f"--{flag}", "7"])
    except ConfigError as error:
        return error.message
    return ""
