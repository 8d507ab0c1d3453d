"""Microseconds a token takes to become text: ours, with stop strings, and tokenizers' DecodeStream.

    python benchmarks/micro/detokenizer.py [FOLDER]

FOLDER holds a tokenizer.json; without it a small byte-level one is made. The ways take turns, round
by round, so that a machine busy with other things disturbs them alike; medians and the spread from
the first to the third quartile are shown.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from espalier.tokenizer.detokenize import Detokenizer
from espalier.tokenizer.hf import HfTokenizer, load
from espalier.tokenizer.stop import StopAutomaton
from espalier.tokenizer.stream import TextStream
from tests.tokenizers import CORPUS, byte_level_bpe

ROUNDS, REPEATS = 15, 40
STOPS = StopAutomaton(["\n\nUser:", "<end>", "```", "Observation:"])


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made)
        if len(sys.argv) < 2:
            byte_level_bpe(folder)
        start = time.perf_counter()
        ours = load(folder)
        loaded = time.perf_counter()
        size = len(ours.visible)
        table = time.perf_counter()
        theirs = Backend.from_file(str(folder / "tokenizer.json"))
    sys.stdout.write(f"{size} tokens: load {loaded - start:.3f} s, table {table - loaded:.3f} s\n")
    tokens = ours.encode("\n".join(CORPUS) * REPEATS, special=False).tolist()
    report(ways(ours, theirs, tokens), len(tokens))


def ways(ours: HfTokenizer, theirs: Backend, tokens: list[int]) -> dict[str, Callable[[], object]]:
    eights = [tokens[at : at + 8] for at in range(0, len(tokens), 8)]
    return {
        "Detokenizer, one by one": lambda: _fed(Detokenizer(ours), [[token] for token in tokens]),
        "Detokenizer, by eights": lambda: _fed(Detokenizer(ours), eights),
        "TextStream with 4 stops": lambda: _fed(
            TextStream(ours, stops=STOPS), [[token] for token in tokens]
        ),
        "DecodeStream.step": lambda: _stepped(theirs, tokens),
    }


def _fed(stream: Detokenizer | TextStream, steps: list[list[int]]) -> None:
    for step in steps:
        stream.feed(step)


def _stepped(theirs: Backend, tokens: list[int]) -> None:
    stream = DecodeStream(skip_special_tokens=True)
    for token in tokens:
        stream.step(theirs, token)


def report(named: dict[str, Callable[[], object]], num_tokens: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(ROUNDS):
        for name, way in named.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) / num_tokens * 1e6)
    for name, taken in times.items():
        low, middle, high = statistics.quantiles(taken, n=4)
        sys.stdout.write(f"{name:28s} {middle:6.3f} us a token  ({low:.3f} to {high:.3f})\n")


if __name__ == "__main__":
    main()
