"""Many prompts at once: python examples/batch.py MODEL."""

# ruff: noqa: T201 (printing is what it is for)
from __future__ import annotations

import sys

import espalier

QUESTIONS = [f"Question {number}: what is {number} times 7?\nAnswer:" for number in range(1, 33)]


def main(model: str) -> None:
    params = espalier.SamplingParams(temperature=0, max_new_tokens=16, stop="\n")
    with espalier.Engine(model_path=model) as engine:
        for question, reply in zip(QUESTIONS, engine.generate(QUESTIONS, params), strict=True):
            print(question, reply["text"].strip())
        counters = engine.statistics()
    print(f"{counters['prompt_tokens']} prompt tokens computed, {counters['cached_tokens']} shared")


if __name__ == "__main__":
    main(sys.argv[1])
