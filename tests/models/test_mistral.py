"""Mistral against transformers."""

from __future__ import annotations

import pytest
from transformers import MistralConfig

from tests.models.harness import assert_matches, ours_like, tiny_checkpoint


@pytest.mark.parametrize("window", [None, 33])
def test_mistral_is_transformers_mistral(window: int | None) -> None:
    theirs = tiny_checkpoint(
        MistralConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            vocab_size=160,
            sliding_window=window,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        )
    )
    assert_matches(theirs, ours_like(theirs), length=200)
