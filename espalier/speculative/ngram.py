"""Drafts from the text so far: what followed the last few tokens when they stood there before.

No model and no device: it pays where output repeats its prompt (summaries, code edits, retrieval).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from espalier.protocol.arrays import NO_IDS, Ids

_WINDOW = 4096  # tokens looked back over; further back, repetition is rarely worth the search


@dataclass(frozen=True, slots=True)
class Ngram:
    longest: int = 4
    shortest: int = 2

    def propose(self, tokens: Ids, most: int) -> Ids:
        """What followed the newest earlier place of the longest ending that occurs twice."""
        recent = tokens[-_WINDOW:]
        if most <= 0:
            return NO_IDS
        for size in range(min(self.longest, len(recent) - 1), self.shortest - 1, -1):
            after = _place_after(recent, size)
            if after is not None:
                return recent[after : after + most].copy()
        return NO_IDS


def _place_after(tokens: Ids, size: int) -> int | None:
    """Where the newest earlier occurrence of the last `size` tokens ends."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens[:-1], size)
    places = np.flatnonzero((windows == tokens[-size:]).all(axis=1))
    return int(places[-1]) + size if places.size else None
