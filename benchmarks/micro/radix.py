"""What the prefix cache costs: `python benchmarks/micro/radix.py`. No torch, one core.

A million tokens are cached in some fifty thousand nodes, and all prompts begin with one token (as
those of a model with a beginning-of-text token do), in three shapes: leaves right under the root,
under a shared system prompt, and as chats of several turns.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np

from espalier.cache.prefix import PrefixCache
from espalier.protocol.arrays import Ids, ids

TOKENS, LEAVES, QUERIES = 1_000_000, 25_000, 4_000
EVICTED = 10_000
FIRST = 1
VOCABULARY = 32_000


def main() -> None:
    for page_size in (1, 16):
        for shape in (scattered, system_prompt, chats):
            measure(shape, page_size)


def scattered(random: np.random.Generator) -> list[Ids]:
    """Prompts with nothing in common but their first token."""
    prompts = random.integers(2, VOCABULARY, (LEAVES, TOKENS // LEAVES), np.int32)
    prompts[:, 0] = FIRST
    return list(prompts)


def system_prompt(random: np.random.Generator) -> list[Ids]:
    """A common beginning of 2,000 tokens that ends inside a page, then each its own."""
    common = random.integers(2, VOCABULARY, 2_005, np.int32)
    common[0] = FIRST
    return [np.concatenate((common, own)) for own in scattered(random)]


def chats(random: np.random.Generator) -> list[Ids]:
    """A tenth as many conversations, of ten turns each: every prompt continues the one before."""
    turn = TOKENS // LEAVES
    whole = random.integers(2, VOCABULARY, (LEAVES // 10, 10 * turn), np.int32)
    whole[:, 0] = FIRST
    return [one[: (last + 1) * turn] for one in whole for last in range(10)]


def measure(shape: Callable[[np.random.Generator], list[Ids]], page_size: int) -> None:
    gc.collect()  # what the shape before left behind is not this one's cost
    random = np.random.default_rng(0)
    prompts = shape(random)
    cache = PrefixCache(2 * LEAVES + 2 * TOKENS // page_size, page_size)
    inserts = [timed(insert, cache, prompt) for prompt in prompts]
    check = timed(cache.check, {})
    queries = [prompts[place] for place in random.integers(0, len(prompts), QUERIES)]
    queries = [changed(random, query) for query in queries]
    matches = [timed(cache.match, "", query, len(query)) for query in queries]
    pins = [timed(pin_and_release, cache, query) for query in queries]
    counts = cache.stock.counts
    cached, nodes = counts.unpinned_tokens, sum(1 for _ in cache.tree.nodes())
    evict = timed(cache.stock.evict, min(EVICTED, counts.unpinned))
    sys.stdout.write(
        f"page {page_size:2} {shape.__name__:13} {cached:,} tokens, {nodes:,} nodes: "
        f"insert {spread(inserts)}, match {spread(matches)}, pin+release {spread(pins)}, "
        f"evict {EVICTED:,} pages {evict * 1e3:.0f} ms, check {check * 1e3:.0f} ms\n"
    )


def insert(cache: PrefixCache, prompt: Ids) -> None:
    """What a request does that begins and ends: stand on what is there, add what is not."""
    match = cache.match("", prompt, len(prompt) - 1)
    hold = cache.pin(match)
    size = cache.page_size
    rest = prompt[match.whole :]
    pages = cache.allocate(-(-len(rest) // size))
    assert pages is not None, "the pool holds all prompts"
    whole = len(rest) // size
    hold = cache.extend(hold, rest[: whole * size], pages[:whole], step=0).hold
    if whole < len(pages):
        cache.keep_tail(hold, rest[whole * size :], int(pages[whole]))
    cache.release(hold)


def pin_and_release(cache: PrefixCache, query: Ids) -> None:
    cache.release(cache.pin(cache.match("", query, len(query))))


def changed(random: np.random.Generator, query: Ids) -> Ids:
    """A prompt that parts from a cached one somewhere in its last twenty tokens."""
    place = int(random.integers(max(len(query) - 20, 1), len(query)))
    return np.concatenate((query[:place], ids([VOCABULARY]), query[place:]))


def timed(call: Callable[..., object], *arguments: object) -> float:
    start = perf_counter()
    call(*arguments)
    return perf_counter() - start


def spread(seconds: list[float]) -> str:
    middle, high = np.percentile(seconds, (50, 99)) * 1e6
    return f"p50 {middle:.0f} us p99 {high:.0f} us"


if __name__ == "__main__":
    main()
