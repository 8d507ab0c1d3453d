"""Our models against transformers', on tiny models with random weights.

`tiny_checkpoint` makes transformers' model, `ours_like` ours with the same weights, and
`assert_matches` compares them in every way that a text can come to be computed: whole, in chunks,
token by token, beside strangers, over another's pages. Pools start as not-a-number, so that reading
a slot that was never written is seen; pages stand in a random order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from espalier.attention.base import Layout, Step
from espalier.attention.reference import ReferenceBackend
from espalier.distributed.group import Alone
from espalier.layers.build import Build
from espalier.loading.weights import load
from espalier.models import build_model

TOLERANCE = 1e-4
BUILD = Build(torch.float32, torch.device("cpu"), Alone())


def tiny_checkpoint(hf_config: Any, path: Path | None = None, *, seed: int = 0) -> Any:
    """transformers' model of this config, random, its logits of deviation 1 at least.

    With `path` it is also saved there as a checkpoint.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf_config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32).eval()
        _randomise(model)
        tokens = torch.randint(0, hf_config.vocab_size, (1, 64))
        with torch.inference_mode():
            deviation = model(tokens).logits.std().item()
    assert deviation >= 1.0, f"logits of deviation {deviation} would hide differences"
    if path is not None:
        model.save_pretrained(path)
    return model


@torch.no_grad()
def _randomise(model: Any) -> None:
    """Weights of such a size that every part matters; transformers' own would be nearly zero."""
    head = model.get_output_embeddings().weight
    for name, parameter in model.named_parameters():
        if parameter is head:
            parameter.normal_(0.0, 2.0 / math.sqrt(parameter.shape[-1]))
        elif parameter.dim() == 1:
            centre = 0.0 if name.endswith("bias") else parameter.mean().item()
            parameter.normal_(centre, 0.2)
        elif "embed" in name:
            parameter.normal_(0.0, 1.0)
        else:
            parameter.normal_(0.0, 1.0 / math.sqrt(parameter.shape[-1]))


def ours_like(theirs: Any, *, context_length: int = 4096, **changes: Any) -> Any:
    """Our model of the same config and weights; `changes` are made to the config that ours reads."""
    hf = {**theirs.config.to_dict(), **changes}
    hf["architectures"] = [type(theirs).__name__]
    model: Any = build_model(hf, BUILD, context_length)
    load(model, model.names, theirs.state_dict().items())
    return model


@dataclass
class Text:
    """One request: its tokens so far computed, and its pages."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class Runner:
    """Runs our model over pools of its own, several texts in one step."""

    def __init__(self, model: Any, *, page_size: int = 16, num_pages: int = 128) -> None:
        self.model = model
        self.page_size = page_size
        self.free = torch.randperm(num_pages).tolist()
        slots = num_pages * page_size
        shapes = [(2, slots, heads.key_value, heads.size) for heads in model.heads()]
        pools = [torch.full(shape, torch.nan, dtype=BUILD.dtype) for shape in shapes]
        self.backend = ReferenceBackend(pools)

    @torch.inference_mode()
    def step(self, *chunks: tuple[Text, Tensor]) -> list[Tensor]:
        """Each text goes on by its tokens, all in one step; the logits of each."""
        starts = [text.length for text, _ in chunks]
        for text, tokens in chunks:
            text.length += len(tokens)
            while len(text.pages) * self.page_size < text.length:
                text.pages.append(self.free.pop())
        ends = [text.length for text, _ in chunks]
        step = self._step([text for text, _ in chunks], starts, ends, [t for _, t in chunks])
        hidden = self.model(step)
        return list(self.model.logits(hidden).split([len(tokens) for _, tokens in chunks]))

    def _step(
        self, texts: list[Text], starts: list[int], ends: list[int], tokens: list[Tensor]
    ) -> Step:
        longest = max(len(text.pages) for text in texts)
        padded = [text.pages + [0] * (longest - len(text.pages)) for text in texts]
        tables_CP = torch.tensor(padded, dtype=torch.int32)
        spans = [torch.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        slots = [
            row[span // self.page_size].long() * self.page_size + span % self.page_size
            for row, span in zip(tables_CP, spans, strict=True)
        ]
        offsets = [0]
        for span in spans:
            offsets.append(offsets[-1] + len(span))
        layout = Layout(offsets, starts, ends, tables_CP, torch.cat(slots), self.page_size)
        return Step(torch.cat(tokens), torch.cat(spans), self.backend.prepare(layout))

    def share(self, text: Text, length: int) -> Text:
        """A new request over the first pages of another."""
        assert length % self.page_size == 0, "only whole pages are shared"
        return Text(pages=text.pages[: length // self.page_size], length=length)


def in_chunks(runner: Runner, tokens: Tensor, counts: Sequence[int]) -> Tensor:
    """Logits of one text, computed `counts` tokens at a time."""
    assert sum(counts) == len(tokens)
    text = Text()
    return torch.cat([runner.step((text, part))[0] for part in tokens.split(list(counts))])


def assert_matches(theirs: Any, ours: Any, *, length: int = 150, seed: int = 1) -> None:
    """Logits to 1e-4 and greedy tokens, in every way that a text can be computed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokens = torch.randint(0, theirs.config.vocab_size, (length,))
        with torch.inference_mode():
            expected = theirs(tokens[None]).logits[0]
        _assert_chunks(ours, tokens, expected)
        _assert_batched(ours, tokens, expected, theirs.config.vocab_size)
        _assert_shared(ours, tokens, expected)
        _assert_greedy(theirs, ours, tokens[: length - 12])


def _assert_chunks(ours: Any, tokens: Tensor, expected: Tensor) -> None:
    whole = in_chunks(Runner(ours), tokens, [len(tokens)])
    assert_close(whole, expected, "whole")
    few = min(24, len(tokens) // 3)
    middle = len(tokens) - 2 * few
    ways = {
        "in chunks": [7, 1, middle, 2 * few - 8],
        "token by token, at the beginning and at the end": [1] * few + [middle] + [1] * few,
    }
    for way, counts in ways.items():
        logits = in_chunks(Runner(ours, page_size=4, num_pages=256), tokens, counts)
        assert_close(logits, expected, way)
        assert torch.equal(logits, whole), f"{way}: not the same bits as the whole"


def _assert_batched(ours: Any, tokens: Tensor, expected: Tensor, vocabulary: int) -> None:
    """In chunks, beside strangers that come and stay."""
    runner = Runner(ours)
    stranger, other, text = Text(), Text(), Text()
    parts = []
    for part in tokens.split(len(tokens) // 3):
        first, second = (torch.randint(0, vocabulary, (n,)) for n in (1, 37))
        logits = runner.step((stranger, first), (text, part), (other, second))
        parts.append(logits[1])
    assert_close(torch.cat(parts), expected, "beside strangers")


def _assert_shared(ours: Any, tokens: Tensor, expected: Tensor) -> None:
    """Over pages that another request filled: in an earlier step, and in the same one."""
    runner = Runner(ours)
    shared = len(tokens) // 2 // runner.page_size * runner.page_size
    leader = Text()
    runner.step((leader, tokens[:shared]))
    (logits,) = runner.step((runner.share(leader, shared), tokens[shared:]))
    assert_close(logits, expected[shared:], "over another's prefix")
    runner = Runner(ours)
    leader = Text(pages=[runner.free.pop() for _ in range(shared // runner.page_size)])
    follower = runner.share(leader, shared)
    _, logits = runner.step((leader, tokens[:shared]), (follower, tokens[shared:]))
    assert_close(logits, expected[shared:], "over a prefix of the same step")


@torch.inference_mode()
def _assert_greedy(theirs: Any, ours: Any, prompt: Tensor, count: int = 12) -> None:
    runner, text = Runner(ours), Text()
    tokens, new = prompt, prompt
    for _ in range(count):
        best = runner.step((text, new))[0][-1].argmax()
        assert best == theirs(tokens[None]).logits[0, -1].argmax(), "another greedy token"
        new = best[None]
        tokens = torch.cat((tokens, new))


def assert_close(result: Tensor, expected: Tensor, way: str) -> None:
    worst = (result - expected).abs().max().item()
    assert worst <= TOLERANCE, f"{way}: logits differ by up to {worst}"  # also if not-a-number
