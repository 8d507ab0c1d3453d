"""Rotary settings, old and new files, against what transformers computes from the same config."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from espalier.errors import CheckpointError, NotBuilt
from espalier.loading.rope import rope_settings

BASE = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 4096}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "yarn with its own scale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 1024,
        "mscale": 0.707,
        "mscale_all_dim": 1.2,
        "beta_fast": 16,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 1024,
    },
}


@pytest.mark.parametrize("vintage", ["old", "new"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_numbers_are_those_of_transformers(scaling: str, vintage: str) -> None:
    numbers = {**SCALINGS[scaling], "rope_theta": 500.0}
    theirs = transformers.LlamaConfig(**BASE, rope_parameters=numbers)
    if vintage == "old":
        said = {k: v for k, v in numbers.items() if k not in {"rope_theta", "rope_type"}}
        said["type"] = numbers["rope_type"]
        hf: dict[str, Any] = {**BASE, "rope_theta": 500.0, "rope_scaling": said}
    else:
        hf = theirs.to_dict()
    ours = rope_settings(hf)
    frequencies, attention = ROPE_INIT_FUNCTIONS[ours.kind](theirs, torch.device("cpu"))
    assert ours.attention_factor == pytest.approx(attention)
    assert (ours.theta, ours.partial, ours.context) == (500.0, 1.0, 4096)
    if ours.kind == "linear":
        plain = 500.0 ** (-torch.arange(0, 16, 2) / 16)
        torch.testing.assert_close(plain / ours.factor, frequencies)
    if ours.kind not in {"linear", "dynamic"}:
        assert ours.original_context == 1024
    assert ours.factor == numbers.get("factor", 4.0)


def test_local_and_global_layers_may_differ() -> None:
    hf = transformers.Gemma3TextConfig().to_dict()
    assert rope_settings(hf, "sliding_attention").theta == 10_000.0
    assert rope_settings(hf, "full_attention").theta == 1_000_000.0
    old = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    assert rope_settings(old, "full_attention").kind == "linear"
    local = rope_settings(old, "sliding_attention")
    assert (local.kind, local.theta) == ("default", 1e4)


def test_the_context_outside_of_the_rope_numbers_wins() -> None:
    hf = {
        "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]},
    }
    rope = rope_settings(hf)
    assert (rope.kind, rope.original_context, rope.factor) == ("longrope", 4096, 32.0)
    assert rope.attention_factor == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


@pytest.mark.parametrize(
    ("rope", "error", "said"),
    [
        ({"rope_type": "axial"}, NotBuilt, "rope_type = 'axial'"),
        ({"rope_type": "linear"}, CheckpointError, "needs 'factor'"),
        ({"rope_type": "linear", "factor": "8"}, CheckpointError, "factor is '8'"),
        ({"rope_type": "llama3", "factor": 8.0}, CheckpointError, "needs 'low_freq_factor'"),
        ({"rope_type": "longrope", "factor": 1.0}, CheckpointError, "needs a list 'short_factor'"),
        ([1], CheckpointError, "is not an object|not an object"),
        ({"full_attention": None}, CheckpointError, "no object for 'full_attention'"),
        ({"rope_theta": math.nan}, CheckpointError, "rope_theta is nan"),
    ],
)
def test_what_cannot_be_used_is_named(rope: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        rope_settings({"max_position_embeddings": 64, "rope_parameters": rope})
