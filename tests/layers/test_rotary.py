"""Rotary embeddings against transformers', each way to stretch them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from espalier.errors import ConfigError
from espalier.kernels.rotary import rotary
from espalier.layers.rotary import Rotary
from espalier.loading.facts import rope_settings
from tests.models.harness import BUILD

TRAINED = 64
SHORT, LONG = [1.0 + 0.1 * i for i in range(16)], [2.0 + 0.7 * i for i in range(16)]
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": TRAINED},
    "yarn, its ramp not cut": {
        "factor": 4.0,
        "original_max_position_embeddings": TRAINED,
        "truncate": False,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "yarn, scaled as told": {
        "factor": 4.0,
        "original_max_position_embeddings": TRAINED,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
    },
}


def llama(kind: str, numbers: dict[str, Any], *, context: int = 256) -> LlamaConfig:
    rope = {"rope_type": kind, "rope_theta": 500.0, **numbers}
    return LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=context,
        rope_parameters=rope,
    )


def phi3() -> Phi3Config:
    return Phi3Config(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=TRAINED,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 500.0,
            "short_factor": SHORT,
            "long_factor": LONG,
        },
    )


def theirs(embedding: Any, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = embedding(torch.zeros(1), torch.arange(length)[None])
    half = cos.shape[-1] // 2
    return cos[0, :, :half], sin[0, :, :half]


def ours(config: Any, length: int, context_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    build = replace(BUILD, context_length=context_length)
    made = Rotary(rope_settings(config.to_dict()), 32, build)(torch.arange(length))
    return made.cos_TR, made.sin_TR


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("length", [TRAINED, 256])
def test_frequencies_are_those_of_transformers(name: str, length: int) -> None:
    config = llama(name.partition(",")[0], KINDS[name])
    expected = theirs(LlamaRotaryEmbedding(config), length)
    torch.testing.assert_close(ours(config, length, 256), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [40, TRAINED, 65, 256])
def test_dynamic_is_transformers_for_a_text_of_the_whole_context(length: int) -> None:
    config = llama("dynamic", {"factor": 2.0}, context=TRAINED)
    expected = theirs(LlamaRotaryEmbedding(config), length)
    torch.testing.assert_close(ours(config, length, length), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [40, TRAINED, 65, 256])
def test_longrope_is_transformers_on_the_same_side_of_the_trained_context(length: int) -> None:
    expected = theirs(Phi3RotaryEmbedding(phi3()), length)
    context = 256 if length > TRAINED else TRAINED
    torch.testing.assert_close(ours(phi3(), length, context), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_position_is_turned_alike_whatever_else_the_step_holds(kind: str) -> None:
    config = phi3() if kind == "longrope" else llama("dynamic", {"factor": 2.0}, context=TRAINED)
    for whole, part in zip(ours(config, 256, 256), ours(config, 30, 256), strict=True):
        assert torch.equal(whole[:30], part)


def test_factors_that_do_not_fit_the_heads_are_refused() -> None:
    settings = replace(rope_settings(phi3().to_dict()), long_factors=(1.0, 2.0))
    with pytest.raises(ConfigError, match="2 factors for 16 rotated pairs"):
        Rotary(settings, 32, replace(BUILD, context_length=256))


def test_a_part_of_each_head_may_stay_as_it_is() -> None:
    config = llama("default", {"partial_rotary_factor": 0.5})
    made = Rotary(rope_settings(config.to_dict()), 32, BUILD)(torch.arange(5))
    x_TNH = torch.randn(5, 2, 32)
    turned = made(x_TNH)
    assert torch.equal(turned[..., 16:], x_TNH[..., 16:])
    assert torch.equal(turned[..., :16], rotary(x_TNH[..., :16], made.cos_TR, made.sin_TR))
