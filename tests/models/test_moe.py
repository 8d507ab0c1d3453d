"""Mixtral and Qwen3 with experts against transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import MixtralConfig, Qwen3MoeConfig

from tests.models.harness import assert_matches, ours_like, tiny_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 160,
}


@pytest.mark.parametrize("window", [None, 33])
def test_mixtral_is_transformers_mixtral(window: int | None) -> None:
    theirs = tiny_checkpoint(
        MixtralConfig(**SIZES, num_local_experts=6, num_experts_per_tok=2, sliding_window=window)
    )
    assert_matches(theirs, ours_like(theirs), length=150)


@pytest.mark.parametrize("renormalise", [True, False])
def test_qwen3_moe_is_transformers_qwen3_moe(renormalise: bool) -> None:
    theirs = tiny_checkpoint(
        Qwen3MoeConfig(
            **SIZES,
            num_experts=8,
            num_experts_per_tok=3,
            moe_intermediate_size=40,
            norm_topk_prob=renormalise,
            mlp_only_layers=[1],
        )
    )
    assert_matches(theirs, ours_like(theirs), length=150)


def test_windows_and_spaced_experts_of_qwen3_moe_are_those_of_transformers() -> None:
    theirs = tiny_checkpoint(
        Qwen3MoeConfig(
            **SIZES,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=40,
            decoder_sparse_step=2,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=33,
        )
    )
    assert_matches(theirs, ours_like(theirs), length=150)
