"""Drafts from the text so far, against the plain search."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from espalier.protocol.arrays import ids
from espalier.speculative.ngram import Ngram


def searched(tokens: list[int], most: int, longest: int, shortest: int) -> list[int]:
    for size in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        ending = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == ending:
                return tokens[start + size : start + size + most]
    return []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 6))
def test_it_proposes_what_followed_the_longest_ending_last(tokens: list[int], most: int) -> None:
    proposed = Ngram(longest=4, shortest=2).propose(ids(tokens), most)
    assert proposed.tolist() == (searched(tokens, most, 4, 2) if most else [])
