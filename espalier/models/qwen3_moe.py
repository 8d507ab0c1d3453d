"""Qwen3 with experts: most layers have many small ones, of which each token visits a few.

T tokens of the step, D hidden size, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from espalier.attention.base import Heads, Step
from espalier.layers.blocks import AttentionShape, GatedMLP, SelfAttention
from espalier.layers.build import Build
from espalier.layers.embedding import LMHead, VocabEmbedding
from espalier.layers.moe import Experts, SparseMLP
from espalier.layers.norm import RMSNorm
from espalier.layers.rotary import Rotary, Rotation
from espalier.loading.facts import RopeSettings, require, rope_settings
from espalier.loading.weights import Names


@dataclass(frozen=True, kw_only=True, slots=True)
class Qwen3MoeConfig:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope: RopeSettings
    attention_bias: bool
    windows: tuple[int | None, ...]  # by layer; None: sees everything
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool
    dense_layers: frozenset[int]  # those without experts
    tie_word_embeddings: bool

    @staticmethod
    def read(hf: Mapping[str, Any]) -> Qwen3MoeConfig:
        """From the checkpoint's config.json."""
        require(hf, hidden_act="silu")
        heads, layers = hf["num_attention_heads"], hf["num_hidden_layers"]
        return Qwen3MoeConfig(
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=hf.get("num_key_value_heads") or heads,
            head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
            vocab_size=hf["vocab_size"],
            rms_norm_eps=hf["rms_norm_eps"],
            rope=rope_settings(hf),
            attention_bias=hf.get("attention_bias") or False,
            # One for all layers, and none unless asked for; `max_window_layers` is Qwen2's alone.
            windows=(hf["sliding_window"] if hf.get("use_sliding_window") else None,) * layers,
            num_experts=hf.get("num_experts") or hf["num_local_experts"],
            num_experts_per_tok=hf["num_experts_per_tok"],
            moe_intermediate_size=hf["moe_intermediate_size"],
            norm_topk_prob=hf.get("norm_topk_prob") or False,
            dense_layers=_dense_layers(hf),
            tie_word_embeddings=hf.get("tie_word_embeddings") or False,
        )


class Qwen3MoeLayer(nn.Module):
    def __init__(self, config: Qwen3MoeConfig, layer: int, build: Build) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        shape = AttentionShape(
            layer=layer,
            hidden=hidden,
            query_heads=config.num_attention_heads,
            key_value_heads=config.num_key_value_heads,
            head_size=config.head_dim,
            window=config.windows[layer],
            qkv_bias=config.attention_bias,
            out_bias=config.attention_bias,
        )
        self.self_attn = SelfAttention(
            shape,
            build,
            q_norm=RMSNorm(config.head_dim, eps, build),
            k_norm=RMSNorm(config.head_dim, eps, build),
        )
        self.mlp = _mlp(config, layer, build)
        self.input_layernorm = RMSNorm(hidden, eps, build)
        self.post_attention_layernorm = RMSNorm(hidden, eps, build)

    def forward(
        self, x_TD: Tensor, residual_TD: Tensor, rotation: Rotation, step: Step
    ) -> tuple[Tensor, Tensor]:
        x_TD, residual_TD = self.input_layernorm.add(x_TD, residual_TD)
        x_TD = self.self_attn(x_TD, rotation, step)
        x_TD, residual_TD = self.post_attention_layernorm.add(x_TD, residual_TD)
        return self.mlp(x_TD), residual_TD


def _dense_layers(hf: Mapping[str, Any]) -> frozenset[int]:
    """Experts stand in every `decoder_sparse_step`-th layer that is not listed as without."""
    step, listed = hf.get("decoder_sparse_step") or 1, hf.get("mlp_only_layers") or ()
    layers = range(hf["num_hidden_layers"])
    return frozenset(layer for layer in layers if layer in listed or (layer + 1) % step)


def _mlp(config: Qwen3MoeConfig, layer: int, build: Build) -> nn.Module:
    hidden = config.hidden_size
    if layer in config.dense_layers:
        return GatedMLP(hidden, config.intermediate_size, build)
    experts = Experts(config.num_experts, hidden, config.moe_intermediate_size, build)
    top_k = config.num_experts_per_tok
    return SparseMLP(hidden, experts, top_k, build, renormalise=config.norm_topk_prob)


class Qwen3MoeModel(nn.Module):
    def __init__(self, config: Qwen3MoeConfig, build: Build) -> None:
        super().__init__()
        self.embed_tokens = VocabEmbedding(config.vocab_size, config.hidden_size, build)
        self.rotary = Rotary(config.rope, config.head_dim, build)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(Qwen3MoeLayer(config, layer, build) for layer in layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, build)

    def forward(self, step: Step) -> Tensor:
        residual_TD = self.embed_tokens(step.tokens_T)
        rotation = self.rotary(step.positions_T)
        x_TD = residual_TD.new_zeros(residual_TD.shape)
        for layer in self.layers:
            x_TD, residual_TD = layer(x_TD, residual_TD, rotation, step)
        return self.norm.add(x_TD, residual_TD)[0]


class Qwen3MoeForCausalLM(nn.Module):
    def __init__(self, config: Qwen3MoeConfig, build: Build) -> None:
        super().__init__()
        self.model = Qwen3MoeModel(config, build)
        tied_to = self.model.embed_tokens if config.tie_word_embeddings else None
        self.lm_head = LMHead(config.vocab_size, config.hidden_size, build, tied_to=tied_to)
        self.names = Names(
            fused={
                "qkv_proj": ("q_proj", "k_proj", "v_proj"),
                "gate_up_proj": ("gate_proj", "up_proj"),
            },
            experts={
                "experts.gate_up_proj": ("gate_proj", "up_proj"),
                "experts.down_proj": ("down_proj",),
            },
            tied={"lm_head.weight": "model.embed_tokens.weight"} if tied_to else {},
            ignored=("rotary_emb.inv_freq",),
        )

    def forward(self, step: Step) -> Tensor:
        """Hidden states, [T, D]."""
        return self.model(step)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, V] in float32; apart from forward, since few rows need it."""
        return self.lm_head(hidden_RD)

    def heads(self) -> list[Heads]:
        blocks = (part for part in self.model.modules() if isinstance(part, SelfAttention))
        return [block.heads for block in blocks]
