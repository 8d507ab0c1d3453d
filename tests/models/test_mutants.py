"""The comparison with transformers is worth something: models with one small fault fail it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, MistralConfig

from espalier.attention.base import Attention, AttentionBackend, Heads, Layout
from espalier.attention.reference import ReferenceBackend
from espalier.layers.blocks import SelfAttention
from espalier.layers.norm import RMSNorm
from tests.models import harness
from tests.models.harness import assert_matches, ours_like, tiny_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
}


def llama() -> Any:
    rope = {"rope_type": "default", "rope_theta": 500.0}
    return tiny_checkpoint(LlamaConfig(**SIZES, rope_parameters=rope))


def blocks(model: nn.Module) -> list[Any]:
    return [part for part in model.modules() if isinstance(part, SelfAttention)]


def test_a_rotary_base_one_percent_off_is_noticed() -> None:
    theirs = llama()
    rope = {"rope_type": "default", "rope_theta": 505.0}
    with pytest.raises(AssertionError, match="logits differ"):
        assert_matches(theirs, ours_like(theirs, rope_parameters=rope))


@pytest.mark.parametrize("window", [32, 34])
def test_a_window_off_by_one_is_noticed(window: int) -> None:
    theirs = tiny_checkpoint(MistralConfig(**SIZES, sliding_window=33))
    with pytest.raises(AssertionError, match="logits differ"):
        assert_matches(theirs, ours_like(theirs, sliding_window=window))


def test_a_norm_left_out_is_noticed() -> None:
    theirs = llama()
    ours = ours_like(theirs)
    for part in ours.modules():
        if isinstance(part, RMSNorm):
            torch.nn.init.ones_(part.weight)
    with pytest.raises(AssertionError, match="logits differ"):
        assert_matches(theirs, ours)


def test_query_heads_that_read_the_wrong_key_value_head_are_noticed() -> None:
    theirs = llama()
    ours = ours_like(theirs)
    for block in blocks(ours):
        size = block.heads.size
        query = block.qkv_proj.part("q_proj").unflatten(0, (-1, size))
        query.copy_(query[[0, 2, 1, 3]].clone())
        block.o_proj.weight.copy_(
            block.o_proj.weight.unflatten(1, (-1, size))[:, [0, 2, 1, 3]].flatten(1).clone()
        )
    with pytest.raises(AssertionError, match="logits differ"):
        assert_matches(theirs, ours)


def test_a_soft_cap_that_one_of_the_two_has_not_is_noticed() -> None:
    theirs = llama()
    ours = ours_like(theirs)
    for block in blocks(ours):
        block.heads = replace(block.heads, soft_cap=20.0)
    with pytest.raises(AssertionError, match="logits differ"):
        assert_matches(theirs, ours)


@dataclass
class ForgetsTheFirst:
    """A cache fault: a request's first token is not seen beyond the first chunk."""

    inner: AttentionBackend

    def prepare(self, layout: Layout) -> Attention:
        tables_CP = layout.tables_CP.clone()
        if layout.starts[0] > 0:
            tables_CP[0, 0] = tables_CP[0, -1]
        return self.inner.prepare(replace(layout, tables_CP=tables_CP))


def test_a_wrong_page_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(pools: list[Tensor]) -> ForgetsTheFirst:
        return ForgetsTheFirst(ReferenceBackend(pools))

    theirs = llama()
    ours = ours_like(theirs)
    monkeypatch.setattr(harness, "ReferenceBackend", make)
    with pytest.raises(AssertionError, match="in chunks: logits differ"):
        assert_matches(theirs, ours)


def test_a_model_without_faults_passes() -> None:
    theirs = llama()
    ours = ours_like(theirs)
    assert [type(heads) for heads in ours.heads()] == [Heads, Heads]
    assert_matches(theirs, ours)
