"""The one loader: stacked experts in both forms, fused tensors cut apart, ties, ranks, bad numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, Qwen3MoeConfig

from espalier.errors import CheckpointError
from espalier.layers.build import Build
from espalier.loading.dummy import fill
from espalier.loading.weights import Names, load
from espalier.models import build_model
from tests.models.harness import BUILD, tiny_checkpoint

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "head_dim": 8,
    "pad_token_id": 0,
}
LLAMA = LlamaConfig(**SMALL)
TIED = LlamaConfig(**SMALL, tie_word_embeddings=True)
MOE = Qwen3MoeConfig(
    **SMALL, num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
)
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}


@dataclass(frozen=True)
class Ranks:
    """One of several ranks, as far as loading goes: nothing is ever computed together."""

    rank: int
    size: int

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        del dim
        return x


def fresh(config: Any, build: Build = BUILD) -> Any:
    names = [ARCHITECTURES[config.model_type]]
    return build_model({**config.to_dict(), "architectures": names}, build, 128)


def tensors_of(config: Any) -> dict[str, Tensor]:
    state = tiny_checkpoint(config).state_dict()
    return {name: one.clone() for name, one in state.items()}


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stacked experts as most published files have them: a tensor for each."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            found[name] = tensor
            continue
        prefix, _, own = name.rpartition(".")
        for expert, one in enumerate(tensor):
            if own == "down_proj":
                found[f"{prefix}.{expert}.down_proj.weight"] = one
            else:
                gate, up = one.chunk(2)
                found[f"{prefix}.{expert}.gate_proj.weight"] = gate
                found[f"{prefix}.{expert}.up_proj.weight"] = up
    return found


def together(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Projections of one input as one tensor, as Phi-3's files have them."""
    fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    found = dict(tensors)
    for name in tensors:
        for whole, parts in fused.items():
            if f".{parts[0]}." in name:
                pieces = [found.pop(name.replace(parts[0], part)) for part in parts]
                found[name.replace(parts[0], whole)] = torch.cat(pieces)
    return found


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    others = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, others[name]), name


def test_experts_may_be_stacked_or_apart() -> None:
    tensors = tensors_of(MOE)
    models = []
    for version in (tensors, apart(tensors)):
        models.append(fresh(MOE))
        load(models[-1], models[-1].names, version.items())
    assert apart(tensors).keys() != tensors.keys()
    assert_equal(*models)


@pytest.mark.parametrize("config", [LLAMA, MOE], ids=["llama", "qwen3_moe"])
def test_a_tensor_that_is_fused_already_is_cut_apart(config: Any) -> None:
    tensors = tensors_of(config)
    models = []
    for version in (tensors, together(tensors)):
        models.append(fresh(config))
        load(models[-1], models[-1].names, version.items())
    assert "model.layers.0.self_attn.qkv_proj.weight" in together(tensors)
    assert_equal(*models)


@pytest.mark.parametrize("form", [dict, apart, together], ids=["as saved", "apart", "together"])
@pytest.mark.parametrize("config", [LLAMA, TIED, MOE], ids=["llama", "tied", "qwen3_moe"])
def test_ranks_together_hold_every_weight_once(config: Any, form: Any) -> None:
    tensors = tensors_of(config)
    whole = fresh(config)
    load(whole, whole.names, tensors.items())
    ranks = []
    for rank in range(2):
        ranks.append(fresh(config, Build(torch.float32, torch.device("cpu"), Ranks(rank, 2))))
        load(ranks[-1], ranks[-1].names, form(tensors).items())
    for name, parameter in whole.named_parameters():
        if name in whole.names.tied:
            continue
        parts = [dict(rank.named_parameters())[name] for rank in ranks]
        held = sorted(torch.cat([part.flatten() for part in parts]).tolist())
        every = parameter.flatten().tolist()
        if parts[0].shape == parameter.shape:  # whole on every rank
            every = every * 2
        padding = len(held) - len(every)  # of the vocabulary
        assert held == sorted(every + [0.0] * padding), name


def test_a_fused_projection_keeps_its_order_on_every_rank() -> None:
    tensors = tensors_of(LLAMA)
    rank = fresh(LLAMA, Build(torch.float32, torch.device("cpu"), Ranks(1, 2)))
    load(rank, rank.names, together(tensors).items())
    layer = rank.model.layers[1].self_attn
    theirs = tensors["model.layers.1.self_attn.k_proj.weight"]
    assert torch.equal(layer.qkv_proj.part("k_proj"), theirs[8:])
    out = tensors["model.layers.1.self_attn.o_proj.weight"]
    assert torch.equal(layer.o_proj.weight, out[:, 16:])


def test_a_tied_head_may_be_there_if_it_is_the_same() -> None:
    tensors = tensors_of(TIED)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    model = fresh(TIED)
    load(model, model.names, tensors.items())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tensors["lm_head.weight"][3, 4] += 1
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs .*\n.*tie_word_embeddings"):
        load(model, model.names, tensors.items())


@pytest.mark.parametrize("rows", [90, 96, 98, 128])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_vocabulary_of_another_size_is_refused(name: str, size: int, rows: int) -> None:
    tensors = {**tensors_of(LLAMA), name: torch.randn(rows, 32)}
    model = fresh(LLAMA, Build(torch.float32, torch.device("cpu"), Ranks(0, size)))
    with pytest.raises(CheckpointError, match=rf"{name} is \({rows}, 32\) .* \(97, 32\)"):
        load(model, model.names, tensors.items())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_named(bad: float) -> None:
    tensors = tensors_of(LLAMA)
    tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = bad
    model = fresh(LLAMA)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight holds"):
        load(model, model.names, tensors.items())


def test_a_missing_expert_is_named() -> None:
    tensors = apart(tensors_of(MOE))
    del tensors["model.layers.1.mlp.experts.3.up_proj.weight"]
    model = fresh(MOE)
    with pytest.raises(CheckpointError, match=r"lacks 1 .*experts\.3\.up_proj\.weight"):
        load(model, model.names, tensors.items())


def test_a_tensor_that_comes_twice_is_refused() -> None:
    tensors = tensors_of(LLAMA)
    twice = [*tensors.items(), ("model.norm.weight", tensors["model.norm.weight"])]
    model = fresh(LLAMA)
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' is in the checkpoint twice"):
        load(model, model.names, twice)


def test_weights_are_cast_to_what_the_model_computes_in() -> None:
    tensors = tensors_of(LLAMA)
    model = fresh(LLAMA, Build(torch.bfloat16, torch.device("cpu"), BUILD.group))
    load(model, model.names, tensors.items())
    expected = tensors["model.norm.weight"].to(torch.bfloat16)
    assert torch.equal(model.model.norm.weight, expected)


def test_names_are_ignored_and_renamed_as_data_says() -> None:
    names = Names(
        ignored=("rotary_emb.inv_freq", "vision.*"),
        renames=(("language_model.model.", "model."), ("model.language_model.", "model.")),
    )
    assert names.ours("model.layers.0.self_attn.rotary_emb.inv_freq") is None
    assert names.ours("vision.tower.0.weight") is None
    assert names.ours("language_model.model.norm.weight") == "model.norm.weight"
    assert names.ours("model.language_model.norm.weight") == "model.norm.weight"
    assert names.ours("model.norm.weight") == "model.norm.weight"


@pytest.mark.parametrize("config", [LLAMA, TIED, MOE], ids=["llama", "tied", "qwen3_moe"])
def test_dummy_weights_are_the_same_however_they_are_split(config: Any) -> None:
    whole = fresh(config)
    fill(whole, whole.names, whole)
    saved = {name: one.clone() for name, one in whole.named_parameters()}
    for rank in range(2):
        build = Build(torch.float32, torch.device("cpu"), Ranks(rank, 2))
        filled, loaded = fresh(config, build), fresh(config, build)
        fill(
            filled,
            filled.names,
            fresh(config, Build(torch.float32, torch.device("meta"), BUILD.group)),
        )
        load(loaded, loaded.names, saved.items())
        assert_equal(filled, loaded)


def test_dummy_weights_have_the_spread_of_a_healthy_model() -> None:
    model = fresh(LlamaConfig(**{**SMALL, "hidden_size": 256, "vocab_size": 1000}))
    fill(model, model.names, model)
    up = model.model.layers[0].mlp.gate_up_proj.part("up_proj")
    assert up.std() == pytest.approx(1 / math.sqrt(256), rel=0.02)
    assert up.mean().abs() < 1e-3
    assert model.model.embed_tokens.weight.std() == pytest.approx(1.0, rel=0.02)
    assert model.lm_head.weight.std() == pytest.approx(3 / math.sqrt(256), rel=0.02)
    assert model.model.norm.weight.mean() == pytest.approx(1.0, abs=0.01)
    row = up.flatten()
    correlation = torch.corrcoef(torch.stack([row[:-1], row[1:]]))[0, 1]
    assert correlation.abs() < 0.03


def test_dummy_numbers_are_splitmix64_of_name_and_place() -> None:
    """In plain Python, where integers do not overflow: so they are the same on any device."""
    model = fresh(LLAMA)
    fill(model, model.names, model)
    layers = {
        "model.layers.0.self_attn.o_proj.weight": model.model.layers[0].self_attn.o_proj.weight,
        "model.layers.1.mlp.down_proj.weight": model.model.layers[1].mlp.down_proj.weight,
    }
    for name, weight in layers.items():
        for place in (0, 1, 700):
            mixed = splitmix64(splitmix64((crc32(name.encode()) << 32) + place))
            total = sum((mixed >> shift) & 0xFFFF for shift in (0, 16, 32, 48))
            normal = (total - 2 * 65535) / math.sqrt(4 * (65536**2 - 1) / 12)
            expected = normal / math.sqrt(weight.shape[1])
            assert weight.flatten()[place].item() == pytest.approx(expected, rel=1e-5)


def splitmix64(x: int) -> int:
    mask = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
