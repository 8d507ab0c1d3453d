"""Several streams in one event loop: python examples/streams.py MODEL."""

# ruff: noqa: T201 (printing is what it is for)
from __future__ import annotations

import asyncio
import sys

import espalier


async def tell(engine: espalier.Engine, prompt: str) -> None:
    """Print a prompt's continuation, a line for every eight tokens."""
    params = {"max_new_tokens": 32, "stream_interval": 8}
    async for news in await engine.async_generate(prompt, params, stream=True):
        print(f"{prompt!r}: {len(news['output_ids'])} tokens, {news['text']!r}")


async def main(model: str) -> None:
    with espalier.Engine(model_path=model) as engine:
        await asyncio.gather(*(tell(engine, f"Story number {number}:") for number in range(3)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
