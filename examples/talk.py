"""A conversation in the terminal: python examples/talk.py MODEL. An empty line ends it.

The whole conversation is sent each time; what was computed before is in the prefix cache.
"""

# ruff: noqa: T201 (printing is what it is for)
from __future__ import annotations

import sys

import espalier


def main(model: str) -> None:
    messages: list[dict[str, str]] = []
    with espalier.Engine(model_path=model) as engine:
        while said := input("> ").strip():
            messages.append({"role": "user", "content": said})
            shown, params = "", {"max_new_tokens": 128, "temperature": 0.7}
            for news in engine.chat(messages, params, stream=True):
                print(news["text"][len(shown) :], end="", flush=True)
                shown = news["text"]
            print()
            messages.append({"role": "assistant", "content": shown})


if __name__ == "__main__":
    main(sys.argv[1])
