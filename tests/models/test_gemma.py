"""Gemma 2 and Gemma 3 (text) against transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Gemma2Config, Gemma3TextConfig

from tests.models.harness import assert_matches, ours_like, tiny_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 160,
}


def gemma2() -> Any:
    return tiny_checkpoint(
        Gemma2Config(
            **SIZES,
            num_hidden_layers=3,
            sliding_window=33,
            query_pre_attn_scalar=20,
            attn_logit_softcapping=4.0,
            final_logit_softcapping=6.0,
        )
    )


def test_gemma2_is_transformers_gemma2() -> None:
    theirs = gemma2()
    assert_matches(theirs, ours_like(theirs), length=180)


def test_a_cap_left_out_is_noticed() -> None:
    theirs = gemma2()
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        with pytest.raises(AssertionError, match="logits differ"):
            assert_matches(theirs, ours_like(theirs, **{name: None}))


def test_gemma3_is_transformers_gemma3() -> None:
    theirs = tiny_checkpoint(
        Gemma3TextConfig(
            **SIZES,
            num_hidden_layers=7,
            sliding_window=33,
            query_pre_attn_scalar=20,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        )
    )
    assert_matches(theirs, ours_like(theirs), length=180)
