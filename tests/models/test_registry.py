"""Finding the model that a checkpoint names."""

from __future__ import annotations

import pytest

from espalier.errors import CheckpointError, NotBuilt
from espalier.models import build_model
from espalier.models.llama import LlamaForCausalLM
from tests.models.harness import BUILD
from tests.models.test_llama import config


def test_an_architecture_is_served_by_its_family() -> None:
    hf = {**config().to_dict(), "architectures": ["LlamaForCausalLM"]}
    model = build_model(hf, BUILD, 128)
    assert isinstance(model, LlamaForCausalLM)
    assert [heads.layer for heads in model.heads()] == [0, 1, 2]


def test_an_architecture_that_nobody_knows_is_refused_by_name() -> None:
    hf = {**config().to_dict(), "architectures": ["LlumaForCausalLM"], "model_type": "lluma"}
    with pytest.raises(NotBuilt, match="LlumaForCausalLM"):
        build_model(hf, BUILD, 128)


def test_a_config_without_an_architecture_is_refused() -> None:
    with pytest.raises(CheckpointError, match="architectures is missing"):
        build_model(config().to_dict() | {"architectures": None}, BUILD, 128)


def test_an_activation_that_a_family_has_not_is_refused_by_name() -> None:
    hf = {**config(hidden_act="gelu").to_dict(), "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(NotBuilt, match="hidden_act = 'gelu'"):
        build_model(hf, BUILD, 128)
