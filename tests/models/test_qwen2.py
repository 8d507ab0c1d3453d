"""Qwen2 against transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2Config

from tests.models.harness import assert_matches, ours_like, tiny_checkpoint

VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "upper layers see a window": {
        "use_sliding_window": True,
        "sliding_window": 33,
        "max_window_layers": 1,
    },
    "yarn": {
        "max_position_embeddings": 256,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 500.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}


def config(**changes: Any) -> Qwen2Config:
    return Qwen2Config(
        **{
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 160,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            **changes,
        }
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_qwen2_is_transformers_qwen2(variant: str) -> None:
    theirs = tiny_checkpoint(config(**VARIANTS[variant]))
    assert_matches(theirs, ours_like(theirs))


def test_a_window_that_is_not_used_is_none() -> None:
    theirs = tiny_checkpoint(config())
    ours = ours_like(theirs, use_sliding_window=False, sliding_window=8, layer_types=None)
    assert_matches(theirs, ours)
