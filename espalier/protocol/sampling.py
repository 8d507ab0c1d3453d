"""What a request may ask of the choice of its tokens, as the engine knows it.

All of it is checked and complete when it stands here: `front/intake.py` makes these from what a
user wrote (`front/params.py`), and nothing below looks at them again.
"""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are chosen. Greedy when `temperature` is 0."""

    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0  # until then no token of `stop` can be chosen
    stop: tuple[int, ...] = ()  # tokens that end the request: the model's own and the user's
    bias: tuple[tuple[int, float], ...] = ()
    allowed: tuple[int, ...] = ()  # empty: all
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that never appear
    seed: int = 0  # never left open: the front end draws one
    sample: int = 0  # which of the prompt's `n`; part of the noise's counter


class LogprobsWanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which log probabilities go with the tokens."""

    top: int = 0  # so many likeliest tokens at each position, beside the chosen one
    listed: tuple[int, ...] = ()  # and these tokens at each position
    prompt_from: int = -1  # the first prompt position reported; -1: output only
