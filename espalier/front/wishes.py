"""What a request says beside its sampling parameters, in SGLang's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espalier.config.limits import LIMITS
from espalier.errors import RequestError
from espalier.front.checks import Check, flag, text, token_ids, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The words are those of `Engine.generate` and of `/generate`."""

    return_logprob: bool = False
    logprob_start_len: int = -1  # the first prompt position reported; -1: output only
    top_logprobs_num: int = 0
    token_ids_logprob: tuple[int, ...] = ()
    return_text_in_logprobs: bool = False
    return_prompt_token_ids: bool = False
    priority: int = 0  # higher goes first
    cache_salt: str = ""  # who shares cached prefixes with whom
    rid: str = ""  # the client's own name for it: shown, and what it may be aborted by

    @staticmethod
    def of(words: Mapping[str, Any]) -> Wishes:
        """The checked form of what was said; `None` means the default."""
        said = {word: words[word] for word in _CHECKS if words.get(word) is not None}
        wishes = Wishes(**{word: _CHECKS[word](word, value) for word, value in said.items()})
        for word in _WITH_LOGPROBS:
            if not wishes.return_logprob and getattr(wishes, word) != getattr(_NOTHING, word):
                raise RequestError(
                    f"{word} needs return_logprob", hint="set return_logprob to True"
                )
        return wishes


_NOTHING = Wishes()
_WITH_LOGPROBS = ("logprob_start_len", "top_logprobs_num", "token_ids_logprob")
_CHECKS: dict[str, Check] = {
    "return_logprob": flag,
    "logprob_start_len": whole(-1, 2**31 - 1),
    "top_logprobs_num": whole(0, LIMITS.max_top_logprobs),
    "token_ids_logprob": token_ids(LIMITS.max_listed_logprobs),
    "return_text_in_logprobs": flag,
    "return_prompt_token_ids": flag,
    "priority": whole(-(2**31), 2**31 - 1),
    "cache_salt": text(LIMITS.max_label_characters),
    "rid": text(LIMITS.max_label_characters, printable=True),
}
WORDS = tuple(_CHECKS)
