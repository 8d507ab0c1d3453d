"""What one request may ask for: the one table of bounds, each with a floor and a ceiling.

A request outside it is refused by name before anything is allocated for it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Ranges are inclusive unless they say otherwise; ids are also bounded by the vocabulary."""

    max_samples: int = 16  # n
    max_stops: int = 16
    max_stop_bytes: int = 256
    max_stop_tokens: int = 64
    max_bias_entries: int = 1024
    max_bias: float = 100.0
    max_bad_words: int = 128
    max_bad_word_tokens: int = 32
    max_allowed_tokens: int = 65_536
    max_top_logprobs: int = 20
    max_listed_logprobs: int = 1024
    max_temperature: float = 2.0
    max_penalty: float = 2.0  # frequency and presence, either side of 0
    max_repetition: float = 2.0  # above 0
    max_label_characters: int = 128  # of a client's own id for a request
    max_prompt_characters: int = 32 * 2**20
    max_messages: int = 8192
    max_chat_depth: int = 64  # lists and objects within each other, in a conversation
    max_chat_values: int = 2**18


LIMITS = RequestLimits()
