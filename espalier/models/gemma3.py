"""Gemma 3, its text model: windows in five of six layers, which turn by a base of their own.

T tokens of the step, D hidden size, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from espalier.attention.base import Heads, Step
from espalier.kernels.activation import gelu_tanh_and_mul
from espalier.layers.blocks import AttentionShape, GatedMLP, SelfAttention
from espalier.layers.build import Build
from espalier.layers.embedding import LMHead, VocabEmbedding
from espalier.layers.norm import OffsetRMSNorm
from espalier.layers.rotary import Rotary, Rotation
from espalier.loading.facts import RopeSettings, require, rope_settings, windows
from espalier.loading.weights import Names


@dataclass(frozen=True, kw_only=True, slots=True)
class Gemma3Config:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope: RopeSettings
    local_rope: RopeSettings  # of the layers with a window
    query_pre_attn_scalar: float
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    windows: tuple[int | None, ...]  # by layer; None: sees everything
    attention_bias: bool

    @staticmethod
    def read(hf: Mapping[str, Any]) -> Gemma3Config:
        """From the checkpoint's config.json."""
        require(hf, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True)
        heads = hf["num_attention_heads"]
        return Gemma3Config(
            hidden_size=hf["hidden_size"],
            intermediate_size=hf["intermediate_size"],
            num_hidden_layers=hf["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=hf.get("num_key_value_heads") or heads,
            head_dim=hf.get("head_dim") or 256,
            vocab_size=hf["vocab_size"],
            rms_norm_eps=hf["rms_norm_eps"],
            rope=rope_settings(hf, "full_attention"),
            local_rope=rope_settings(hf, "sliding_attention"),
            query_pre_attn_scalar=hf.get("query_pre_attn_scalar") or 256,
            attn_logit_softcapping=hf.get("attn_logit_softcapping"),
            final_logit_softcapping=hf.get("final_logit_softcapping"),
            windows=windows(hf),
            attention_bias=hf.get("attention_bias") or False,
        )


class Gemma3Layer(nn.Module):
    def __init__(self, config: Gemma3Config, layer: int, build: Build) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        shape = AttentionShape(
            layer=layer,
            hidden=hidden,
            query_heads=config.num_attention_heads,
            key_value_heads=config.num_key_value_heads,
            head_size=config.head_dim,
            scale=config.query_pre_attn_scalar**-0.5,
            window=config.windows[layer],
            soft_cap=config.attn_logit_softcapping,
            qkv_bias=config.attention_bias,
            out_bias=config.attention_bias,
        )
        self.self_attn = SelfAttention(
            shape,
            build,
            q_norm=OffsetRMSNorm(config.head_dim, eps, build),
            k_norm=OffsetRMSNorm(config.head_dim, eps, build),
        )
        self.is_local = config.windows[layer] is not None
        inner = config.intermediate_size
        self.mlp = GatedMLP(hidden, inner, build, activation=gelu_tanh_and_mul)
        self.input_layernorm = OffsetRMSNorm(hidden, eps, build)
        self.post_attention_layernorm = OffsetRMSNorm(hidden, eps, build)
        self.pre_feedforward_layernorm = OffsetRMSNorm(hidden, eps, build)
        self.post_feedforward_layernorm = OffsetRMSNorm(hidden, eps, build)

    def forward(self, x_TD: Tensor, rotation: Rotation, step: Step) -> Tensor:
        out_TD = self.self_attn(self.input_layernorm(x_TD), rotation, step)
        x_TD = x_TD + self.post_attention_layernorm(out_TD)
        out_TD = self.mlp(self.pre_feedforward_layernorm(x_TD))
        return x_TD + self.post_feedforward_layernorm(out_TD)


class Gemma3Model(nn.Module):
    def __init__(self, config: Gemma3Config, build: Build) -> None:
        super().__init__()
        self.embed_tokens = VocabEmbedding(config.vocab_size, config.hidden_size, build)
        self.rotary = Rotary(config.rope, config.head_dim, build)
        self.local_rotary = Rotary(config.local_rope, config.head_dim, build)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(Gemma3Layer(config, layer, build) for layer in layers)
        self.norm = OffsetRMSNorm(config.hidden_size, config.rms_norm_eps, build)
        # Rounded to the model's own format before it multiplies, as in training.
        self.scale = torch.tensor(config.hidden_size**0.5, dtype=build.dtype).item()

    def forward(self, step: Step) -> Tensor:
        x_TD = self.embed_tokens(step.tokens_T) * self.scale
        rotation = self.rotary(step.positions_T)
        local = self.local_rotary(step.positions_T)
        for layer in self.layers:
            x_TD = layer(x_TD, local if layer.is_local else rotation, step)
        return self.norm(x_TD)


class Gemma3ForCausalLM(nn.Module):
    def __init__(self, config: Gemma3Config, build: Build) -> None:
        super().__init__()
        self.model = Gemma3Model(config, build)
        self.lm_head = LMHead(
            config.vocab_size, config.hidden_size, build, tied_to=self.model.embed_tokens
        )
        self.cap = config.final_logit_softcapping
        self.names = Names(
            fused={
                "qkv_proj": ("q_proj", "k_proj", "v_proj"),
                "gate_up_proj": ("gate_proj", "up_proj"),
            },
            tied={"lm_head.weight": "model.embed_tokens.weight"},
            ignored=("rotary_emb.inv_freq",),
        )

    def forward(self, step: Step) -> Tensor:
        """Hidden states, [T, D]."""
        return self.model(step)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, V] in float32; apart from forward, since few rows need it."""
        logits_RV = self.lm_head(hidden_RD)
        return logits_RV if self.cap is None else self.cap * torch.tanh(logits_RV / self.cap)

    def heads(self) -> list[Heads]:
        blocks = (part for part in self.model.modules() if isinstance(part, SelfAttention))
        return [block.heads for block in blocks]
