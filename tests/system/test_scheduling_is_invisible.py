"""One test worth a hundred: nothing about scheduling can be seen in what a request is answered.

The next token is a hash of all tokens before it, so an error of page, position, cache, preemption
or draft changes the text. A seeded driver makes the volume; hypothesis shrinks what it finds.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.system.traffic import Traffic, drive

SEEDS = 400
MUST_HAPPEN = {
    "abort while waiting",
    "abort while put back",
    "abort while part of the prompt",
    "abort while decoding",
    "abort while in flight",
    "abort while gone",
    "cache hit",
    "chunked prompt",
    "copied a partial page",
    "drafts",
    "failed step",
    "finished: abort",
    "finished: error",
    "finished: length",
    "finished: stop",
    "flush",
    "mixed step",
    "preemption",
    "resumed after preemption",
    "waited for a prefix",
}


def test_no_schedule_changes_any_text() -> None:
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            happened += drive(Traffic(seed)).happened
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}")
    assert set(happened) >= MUST_HAPPEN, f"never seen: {MUST_HAPPEN - set(happened)}"


@settings(max_examples=150, deadline=None)
@given(st.integers(1_000, 10**9), st.integers(5, 40))
def test_nor_does_one_that_hypothesis_looks_for(seed: int, actions: int) -> None:
    drive(Traffic(seed, actions))


def test_the_same_seed_is_the_same_run() -> None:
    assert drive(Traffic(7)).log == drive(Traffic(7)).log
