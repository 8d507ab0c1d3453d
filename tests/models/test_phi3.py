"""Phi-3 and Phi-4 against transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Phi3Config

from tests.models.harness import assert_matches, ours_like, tiny_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("window", [None, 33])
def test_phi3_is_transformers_phi3(window: int | None) -> None:
    theirs = tiny_checkpoint(Phi3Config(**SIZES, sliding_window=window))
    assert_matches(theirs, ours_like(theirs), length=150)


def test_phi4_turns_a_part_of_each_head_and_goes_beyond_its_original_context() -> None:
    theirs = tiny_checkpoint(
        Phi3Config(
            **SIZES,
            max_position_embeddings=512,
            original_max_position_embeddings=64,
            partial_rotary_factor=0.75,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 64,
                "factor": 8.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
            },
        )
    )
    assert_matches(theirs, ours_like(theirs, context_length=512), length=150)
