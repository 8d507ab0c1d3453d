"""Qwen3 against transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen3Config

from tests.models.harness import assert_matches, ours_like, tiny_checkpoint

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied, with biases": {"tie_word_embeddings": True, "attention_bias": True},
    "upper layers see a window": {
        "use_sliding_window": True,
        "sliding_window": 33,
        "max_window_layers": 2,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_qwen3_is_transformers_qwen3(variant: str) -> None:
    config = Qwen3Config(
        **{
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": 160,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            **VARIANTS[variant],
        }
    )
    theirs = tiny_checkpoint(config)
    assert_matches(theirs, ours_like(theirs))
