"""Models split over two ranks, which are real processes, against the same models in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3MoeConfig,
)

from espalier.distributed.group import Alone
from espalier.distributed.launch import launch
from tests.distributed.model_rank import LENGTH, logits_of, model_of
from tests.models.harness import tiny_checkpoint

TOLERANCE = 1e-5  # a product split in two is added in another order
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 161,  # one rank's share ends in a row of nothing
    "pad_token_id": 0,
}
CAPPED = {"head_dim": 16, "sliding_window": 33, "query_pre_attn_scalar": 16}
CONFIGS = [
    LlamaConfig(**{**SIZES, "num_key_value_heads": 1}, attention_bias=True),  # held by both ranks
    Gemma2Config(**SIZES, **CAPPED, final_logit_softcapping=6.0),
    Gemma3TextConfig(**SIZES, **CAPPED),
    Phi3Config(**SIZES, tie_word_embeddings=True),
    MixtralConfig(**SIZES, num_local_experts=4),
    Qwen3MoeConfig(**SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=40),
]


def test_two_ranks_give_the_logits_and_the_tokens_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    folders = [tmp_path / config.model_type for config in CONFIGS]
    for config, folder in zip(CONFIGS, folders, strict=True):
        tiny_checkpoint(config, folder)
    settings = "\n".join(map(str, folders)).encode()
    ranks = launch("tests.distributed.model_rank", settings, 2)
    try:
        found = {folder: logits_of(model_of(folder, ranks.group)) for folder in folders}
    finally:
        ranks.stop()
    for folder, (whole, pieces) in found.items():
        expected, _ = logits_of(model_of(folder, Alone()))
        worst = (whole - expected).abs().max().item()
        assert worst <= TOLERANCE, f"{folder.name}: logits differ by up to {worst}"
        assert torch.equal(whole.argmax(-1), expected.argmax(-1)), folder.name
        assert torch.equal(pieces, whole[:LENGTH]), f"{folder.name}: rows depend on their batch"
