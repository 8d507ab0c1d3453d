"""Architectures without a file of their own: served through transformers' class, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    ApertusConfig,
    BertConfig,
    BloomConfig,
    CohereConfig,
    DeepseekV3Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    MambaConfig,
    Olmo2Config,
    Olmo3Config,
    Qwen2MoeConfig,
    Starcoder2Config,
    T5Config,
)

from espalier.errors import NotBuilt
from espalier.models import build_model
from tests.models.harness import BUILD, assert_matches, ours_like, tiny_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 97,  # odd: where a vector ends differs from row to row
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 160,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    "config",
    [
        Olmo2Config(**GROUPED),
        GraniteConfig(**GROUPED, logits_scaling=1.5, attention_multiplier=0.3),
        Starcoder2Config(**GROUPED, sliding_window=33),
        CohereConfig(**GROUPED, logit_scale=1.0),
        GPTNeoXConfig(**SIZES),
        ApertusConfig(**GROUPED, pad_token_id=0),  # buffers in its checkpoint
        Qwen2MoeConfig(
            **GROUPED,
            num_experts=6,
            num_experts_per_tok=3,
            moe_intermediate_size=40,
            shared_expert_intermediate_size=56,
        ),
        Olmo3Config(
            **GROUPED,
            sliding_window=33,
            layer_types=["sliding_attention", "full_attention"],
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_it_is_transformers_own(config: Any) -> None:
    theirs = tiny_checkpoint(config)
    assert_matches(theirs, ours_like(theirs), length=150)


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        (MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=160), "MambaForCausalLM"),
        (BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=160), "BloomForCausalLM"),
        (BertConfig(hidden_size=64, num_attention_heads=4, vocab_size=160), "BertLMHeadModel"),
        (GptOssConfig(**GROUPED, head_dim=16), "GptOssForCausalLM"),
        (DeepseekV3Config(**GROUPED), "DeepseekV3ForCausalLM"),
        (Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"]), "Lfm2ForCausalLM"),
        (
            Olmo2Config(**GROUPED, rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
            "Olmo2ForCausalLM",
        ),
        (T5Config(d_model=64, vocab_size=160), "T5ForConditionalGeneration"),
    ],
    ids=[
        "recurrent",
        "own attention",
        "sees what follows",
        "sinks",
        "latent attention",
        "convolution",
        "frequencies by length",
        "encoder",
    ],
)
def test_what_cannot_be_served_is_refused_by_name(config: Any, architecture: str) -> None:
    hf = {**config.to_dict(), "architectures": [architecture]}
    with pytest.raises(NotBuilt, match=architecture.removesuffix("ForConditionalGeneration")):
        build_model(hf, BUILD, 128)


def test_code_that_a_config_names_is_never_run() -> None:
    hf = {
        **Olmo2Config(**GROUPED).to_dict(),
        "architectures": ["Olmo2ForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "evil.Model"},
        "_attn_implementation_internal": "evil/kernel",
    }
    assert type(build_model(hf, BUILD, 128)).__name__ == "GenericForCausalLM"
