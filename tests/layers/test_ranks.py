"""Layers split over ranks give what whole ones give. The ranks are threads that meet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from espalier.errors import ConfigError
from espalier.layers.build import Build
from espalier.layers.embedding import LMHead, VocabEmbedding
from espalier.layers.linear import ColumnLinear, RowLinear
from espalier.layers.moe import Experts
from espalier.loading.weights import load
from espalier.models import build_model
from tests.models.harness import BUILD, TOLERANCE, Runner, Text, tiny_checkpoint


@dataclass(frozen=True)
class Table:
    """Where the ranks lay down what they bring."""

    barrier: Barrier
    places: list[Tensor]


@dataclass(frozen=True)
class Together:
    """One rank of several threads."""

    rank: int
    size: int
    table: Table

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self._everyones(x)).sum(0)

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        return torch.cat(self._everyones(x), dim)

    def _everyones(self, x: Tensor) -> list[Tensor]:
        self.table.places[self.rank] = x
        self.table.barrier.wait(timeout=60)
        brought = list(self.table.places)
        self.table.barrier.wait(timeout=60)
        return brought


def on_ranks(size: int, work: Callable[[Build], Any]) -> list[Any]:
    table = Table(Barrier(size), [torch.empty(0)] * size)
    builds = [replace(BUILD, group=Together(rank, size, table)) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, builds))


def logits(config: Any, build: Build, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    hf = {**config.to_dict(), "architectures": config.architectures}
    model: Any = build_model(hf, build, 512)
    load(model, model.names, weights.items())
    runner, text = Runner(model), Text()
    return torch.cat([runner.step((text, part))[0] for part in tokens.split(30)])


@pytest.mark.parametrize(("size", "key_value_heads"), [(2, 4), (2, 1), (4, 2), (4, 1)], ids=str)
def test_a_model_over_ranks_is_the_model(size: int, key_value_heads: int) -> None:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        vocab_size=161,  # splits evenly over nothing
        attention_bias=True,
        mlp_bias=True,
        architectures=["LlamaForCausalLM"],
    )
    theirs = tiny_checkpoint(config)
    tokens = torch.randint(0, 161, (70,))
    with torch.inference_mode():
        expected = theirs(tokens[None]).logits[0]
    weights = theirs.state_dict()
    for result in on_ranks(size, lambda build: logits(config, build, weights, tokens)):
        torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)


def filled(layer: Any, whole: dict[str, Tensor]) -> Any:
    for name, parameter in layer.named_parameters():
        parameter.copy_(layer.shard(whole[name], name))
    return layer


@torch.no_grad()
def test_a_row_layer_adds_its_bias_once() -> None:
    whole = {"weight": torch.randn(24, 64), "bias": torch.randn(24)}
    x_TD = torch.randn(5, 64)

    def work(build: Build) -> Tensor:
        layer = filled(RowLinear(64, 24, build, bias=True), whole)
        with torch.no_grad():
            return layer(x_TD.chunk(2, -1)[build.group.rank])

    expected = x_TD @ whole["weight"].T + whole["bias"]
    for result in on_ranks(2, work):
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_column_layer_holds_its_share_of_the_outputs() -> None:
    whole = {"weight": torch.randn(24, 64), "bias": torch.randn(24)}
    x_TD = torch.randn(5, 64)

    def work(build: Build) -> Tensor:
        with torch.no_grad():
            return filled(ColumnLinear(64, 24, build, bias=True), whole)(x_TD)

    expected = x_TD @ whole["weight"].T + whole["bias"]
    torch.testing.assert_close(torch.cat(on_ranks(3, work), -1), expected, atol=1e-4, rtol=0)


def test_a_vocabulary_that_does_not_divide_is_padded_and_never_seen() -> None:
    whole = {"weight": torch.randn(10, 8)}
    tokens_T = torch.arange(10)

    def work(build: Build) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            embedding = filled(VocabEmbedding(10, 8, build), whole)
            head = LMHead(10, 8, build, tied_to=embedding)
            return embedding(tokens_T), head(whole["weight"])

    for embedded, scores in on_ranks(4, work):
        assert torch.equal(embedded, whole["weight"])
        assert scores.shape == (10, 10)
        torch.testing.assert_close(scores, whole["weight"] @ whole["weight"].T)


def test_experts_are_split_by_their_inner_size() -> None:
    inner = 12
    whole = {"gate_up_proj": torch.randn(4, 2 * inner, 16), "down_proj": torch.randn(4, 16, inner)}
    x_TD = torch.randn(7, 16)
    chosen = torch.stack([torch.randperm(4)[:2] for _ in range(7)])
    shares = torch.rand(7, 2)

    def work(build: Build) -> Tensor:
        experts = Experts(4, 16, inner, build)
        with torch.no_grad():
            gate, up = (experts.shard(x, "gate_up_proj") for x in whole["gate_up_proj"].chunk(2, 1))
            experts.gate_up_proj.copy_(torch.cat((gate, up), 1))
            experts.down_proj.copy_(experts.shard(whole["down_proj"], "down_proj"))
            return build.group.all_reduce(experts(x_TD, shares, chosen))

    expected = torch.zeros(7, 16)
    for token in range(7):
        for expert, share in zip(chosen[token].tolist(), shares[token], strict=True):
            gate, up = (whole["gate_up_proj"][expert] @ x_TD[token]).chunk(2)
            inner_I = torch.nn.functional.silu(gate) * up
            expected[token] += share * (whole["down_proj"][expert] @ inner_I)
    for size in (1, 2, 3):
        for result in on_ranks(size, work):
            torch.testing.assert_close(result, expected, atol=1e-3, rtol=1e-4)


def test_heads_that_cannot_be_shared_are_refused() -> None:
    build = replace(BUILD, group=Together(0, 4, Table(Barrier(1), [])))
    with pytest.raises(ConfigError, match="3 key-value heads cannot be shared by 4 ranks"):
        build.sharers(3)
    with pytest.raises(ConfigError, match=r"query heads \(6\) cannot be split over 4"):
        build.share(6, "query heads")
