"""Our models against transformers' on published checkpoints: logits and greedy tokens.

    python tools/real_models_check.py                      # two small models, from the hub
    python tools/real_models_check.py /models/qwen ...     # folders, or names on the hub

Both run in float32 on the CPU, one prompt after another: about 5 GB of memory for each 1.1 B
parameters, twice. Exit status 0 if all agree. Needs a network only for names that are not folders.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from espalier.attention.base import Heads, Layout, Step
from espalier.attention.reference import ReferenceBackend
from espalier.distributed.group import Alone
from espalier.errors import EspalierError
from espalier.layers.build import Build
from espalier.loading.facts import context_length, read_config
from espalier.loading.weights import load
from espalier.models import build_model

MODELS = ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Qwen/Qwen2.5-0.5B-Instruct")
FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model"]
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time there was a gardener who " + "watered the pear trees and " * 40,
)
TOLERANCE = 1e-3  # of logits whose deviation is about 3, after two dozen layers
NEW_TOKENS = 24
PAGE = 16


@dataclass(frozen=True)
class Verdict:
    worst: float
    deviation: float
    ours: list[int]
    theirs: list[int]

    @property
    def is_good(self) -> bool:
        return self.worst <= TOLERANCE and self.ours == self.theirs


def main(names: list[str]) -> int:
    torch.set_grad_enabled(False)
    return sum([not is_equal(name) for name in names]) and 1


def is_equal(name: str) -> bool:
    """Whether one model agrees on all prompts; says so."""
    say(f"\n{name}")
    folder = (
        Path(name) if Path(name).is_dir() else Path(snapshot_download(name, allow_patterns=FILES))
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    try:
        ours = our_model(folder, theirs)
    except EspalierError as error:
        say(f"  REFUSED  {error}")
        return False
    verdicts = [compare(theirs, ours, prompt) for prompt in prompts(folder, theirs)]
    for number, verdict in enumerate(verdicts):
        say(
            f"  {'ok  ' if verdict.is_good else 'FAIL'} prompt {number}: logits differ by at most "
            f"{verdict.worst:.1e} (deviation {verdict.deviation:.2f}); "
            f"{agreement(verdict)} of {len(verdict.theirs)} greedy tokens agree"
        )
    return all(verdict.is_good for verdict in verdicts)


def agreement(verdict: Verdict) -> int:
    """How many tokens are equal before the first that is not."""
    pairs = zip(verdict.ours, verdict.theirs, strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(verdict.theirs))


def our_model(folder: Path, theirs: Any) -> Any:
    hf = read_config(folder)
    build = Build(torch.float32, torch.device("cpu"), Alone())
    model: Any = build_model(hf, build, context_length(hf))
    load(model, model.names, theirs.state_dict().items())
    return model


def prompts(folder: Path, theirs: Any) -> list[Tensor]:
    """As tokens; random ones for a folder without a tokenizer."""
    if not any(folder.glob("tokenizer*")):
        generator = torch.Generator().manual_seed(0)
        vocabulary = theirs.config.vocab_size
        return [torch.randint(0, vocabulary, (n,), generator=generator) for n in (1, 40, 200)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [torch.tensor(tokenizer(prompt).input_ids) for prompt in PROMPTS]


def compare(theirs: Any, ours: Any, prompt: Tensor) -> Verdict:
    """The prompt whole, then greedily token by token; transformers computes all of it each time."""
    text = Text(ours, len(prompt) + NEW_TOKENS)
    logits, expected = text.go_on(prompt), theirs(prompt[None]).logits[0]
    worst = (logits - expected).abs().max().item()
    mine, tokens = [int(logits[-1].argmax())], [int(expected[-1].argmax())]
    while len(tokens) < NEW_TOKENS:
        known = torch.cat((prompt, torch.tensor(tokens)))
        expected_V = theirs(known[None]).logits[0, -1]
        logits_V = text.go_on(known[-1:])[0]  # both follow transformers' text
        worst = max(worst, (logits_V - expected_V).abs().max().item())
        mine.append(int(logits_V.argmax()))
        tokens.append(int(expected_V.argmax()))
    return Verdict(worst, expected.std().item(), mine, tokens)


class Text:
    """One text over a cache of its own."""

    def __init__(self, model: Any, most: int) -> None:
        self.model, self.length = model, 0
        pages = -(-most // PAGE)
        self.tables_CP = torch.randperm(pages, dtype=torch.int32)[None]
        self.backend = ReferenceBackend([pool(heads, pages * PAGE) for heads in model.heads()])

    def go_on(self, tokens: Tensor) -> Tensor:
        start, end = self.length, self.length + len(tokens)
        positions = torch.arange(start, end)
        slots = self.tables_CP[0, positions // PAGE].long() * PAGE + positions % PAGE
        layout = Layout([0, end - start], [start], [end], self.tables_CP, slots, PAGE)
        self.length = end
        hidden = self.model(Step(tokens, positions, self.backend.prepare(layout)))
        return self.model.logits(hidden)


def pool(heads: Heads, slots: int) -> Tensor:
    return torch.zeros(2, slots, heads.key_value, heads.size)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), help="folders, or hub names")
    sys.exit(main(parser.parse_args().models))
