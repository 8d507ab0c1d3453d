"""Llama against transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from tests.models.harness import assert_matches, ours_like, tiny_checkpoint


def config(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 160,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            **changes,
        }
    )


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 16.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stretched as llama 3, beyond the first context": {"rope_parameters": LLAMA3},
    "stretched linearly": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
    },
    "stretched by yarn, beyond the first context": {"rope_parameters": YARN},
    "tied": {"tie_word_embeddings": True},
    "biases, heads of another size": {"attention_bias": True, "mlp_bias": True, "head_dim": 24},
    "one key-value head": {"num_key_value_heads": 1},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_is_transformers_llama(variant: str) -> None:
    theirs = tiny_checkpoint(config(**VARIANTS[variant]))
    assert_matches(theirs, ours_like(theirs))
