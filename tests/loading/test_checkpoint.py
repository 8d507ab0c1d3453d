"""Whole checkpoints: shards, indexes, weights into a model; what is amiss is named, nothing filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from espalier.errors import ConfigError
from espalier.loading.checkpoint import Checkpoint
from espalier.loading.dummy import fill
from espalier.loading.weights import load
from espalier.models import build_model
from tests.models.harness import BUILD, tiny_checkpoint

CONFIG = LlamaConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=160,
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {name: one.clone() for name, one in tiny_checkpoint(CONFIG).state_dict().items()}


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view(torch.int32)


def fresh() -> Any:
    return build_model({**CONFIG.to_dict(), "architectures": ["LlamaForCausalLM"]}, BUILD, 128)


def shards(folder: Path, tensors: dict[str, Tensor], count: int = 3) -> dict[str, str]:
    weight_map = {}
    names = sorted(tensors)
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weight_map


def test_shards_are_one_checkpoint(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    shards(tmp_path, tensors)
    checkpoint = Checkpoint.open(tmp_path)
    assert len(checkpoint) == len(tensors)
    model = fresh()
    load(model, model.names, checkpoint)
    first = model.model.layers[0].self_attn.qkv_proj.part("k_proj")
    assert torch.equal(first, tensors["model.layers.0.self_attn.k_proj.weight"])


def test_a_missing_shard_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    shards(tmp_path, tensors)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConfigError, match="model-00002-of-00003"):
        Checkpoint.open(tmp_path)


def test_an_index_that_names_what_no_shard_has_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    weight_map = shards(tmp_path, tensors)
    index = {"weight_map": {**weight_map, "model.extra.weight": next(iter(weight_map.values()))}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"model\.extra\.weight"):
        Checkpoint.open(tmp_path)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="secret"):
        Checkpoint.open(tmp_path)


def test_pickled_weights_are_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ConfigError, match="safetensors"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop("model.norm.weight"), r"model\.norm\.weight"),
        (lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"), r"1\.self_attn\.k_proj"),
        (lambda t: t.update({"model.layers.1.extra": torch.ones(2)}), r"layers\.1\.extra"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(63)}),
            r"model\.norm\.weight.*63.*64",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(64).int()}), r"model\.norm\.weight"),
    ],
    ids=["missing", "part of a fused one missing", "extra", "misshapen", "whole numbers"],
)
def test_what_does_not_fit_is_named_and_nothing_is_half_loaded(
    tensors: dict[str, Tensor], change: Any, why: str
) -> None:
    change(tensors)
    model = fresh()
    # As bits: memory that nobody filled yet may hold what is not equal to itself.
    before = {name: bits(one).clone() for name, one in model.named_parameters()}
    with pytest.raises(ConfigError, match=why):
        load(model, model.names, tensors.items())
    for name, one in model.named_parameters():
        assert torch.equal(bits(one), before[name]), f"{name} was filled"


def test_dummy_weights_are_the_same_every_time_and_give_logits_that_differ() -> None:
    first, second = fresh(), fresh()
    for model in (first, second):
        fill(model, model.names, model)
    for (name, one), (_, other) in zip(
        first.named_parameters(), second.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    hidden = torch.randn(50, 64)
    assert 1.0 < first.logits(hidden).std() < 9.0
