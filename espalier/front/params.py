"""`SamplingParams`: what a user writes, in SGLang's words or vLLM's. Everything is checked here.

Unknown words, wrong types, values out of range and features that are not built are refused by name;
nothing is ignored. `None` always means the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from espalier.config.limits import LIMITS
from espalier.errors import OutOfRange, RequestError

# vLLM's and OpenAI's words for the same.
ALIASES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "seed": "sampling_seed",
    "include_stop_str_in_output": "no_stop_trim",
}
# Words whose features are not built: refused when they ask for something.
NOT_BUILT = {
    "json_schema": "structured output is not built yet; ask for JSON in the prompt",
    "regex": "structured output is not built yet; check the text afterwards",
    "ebnf": "structured output is not built yet; check the text afterwards",
    "structural_tag": "structured output is not built yet",
    "structured_outputs": "structured output is not built yet",
    "guided_json": "structured output is not built yet",
    "guided_regex": "structured output is not built yet",
    "guided_choice": "structured output is not built yet",
    "guided_grammar": "structured output is not built yet",
    "stop_regex": "use stop, with the strings themselves",
    "beam_width": "use n, with a temperature above 0",
    "use_beam_search": "use n, with a temperature above 0",
    "best_of": "use n, and choose among the answers",
    "custom_params": "code and parameters for code are never taken from a request",
    "custom_logit_processor": "code is never taken from a request",
    "logits_processors": "code is never taken from a request",
    "watermark": "watermarks are not built",
    "thinking_token_budget": "use max_new_tokens",
    "truncate_prompt_tokens": "shorten the prompt before it is sent",
}


@dataclass(frozen=True, init=False, eq=True)
class SamplingParams:
    """How to continue a prompt. Fields and defaults are SGLang's; vLLM's words mean the same."""

    max_new_tokens: int | None = 128  # None: to the end of the context
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    n: int = 1
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    stream_interval: int = 1
    logit_bias: tuple[tuple[int, float], ...] = ()
    sampling_seed: int | None = None
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None  # vLLM's: so many likeliest tokens beside each one chosen
    prompt_logprobs: int | None = None  # the same for the prompt
    says_length: bool = False  # max_new_tokens was given; a default is fitted to the context

    def __init__(self, **words: Any) -> None:
        given = _renamed(words)
        for name, check in _CHECKS.items():
            value = given.get(name)
            default = getattr(type(self), name)
            object.__setattr__(self, name, default if value is None else check(name, value))
        if "max_new_tokens" in given and given["max_new_tokens"] is None:
            object.__setattr__(self, "max_new_tokens", None)
        object.__setattr__(self, "says_length", given.get("max_new_tokens") is not None)
        most = self.max_new_tokens
        if most is not None and self.min_new_tokens > most:
            raise OutOfRange("min_new_tokens", self.min_new_tokens, f"max_new_tokens is {most}")

    def __eq__(self, other: object) -> bool:
        """Equal to a dict that says the same."""
        if isinstance(other, Mapping):
            return self == SamplingParams(**other)
        if not isinstance(other, SamplingParams):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _CHECKS)

    __hash__ = None  # type: ignore[assignment]  # equal to dicts, which have no hash

    @staticmethod
    def of(words: SamplingParams | Mapping[str, Any] | None) -> SamplingParams:
        """From an object, a dict or nothing."""
        if words is None:
            return SamplingParams()
        if isinstance(words, SamplingParams):
            return words
        if not isinstance(words, Mapping):
            raise OutOfRange("sampling_params", words, "must be a SamplingParams or a dict")
        for name in words:
            if not isinstance(name, str):
                raise OutOfRange("sampling_params", name, "its keys must be strings")
        return SamplingParams(**words)


def _renamed(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words under our names; one thing said twice, or a word nobody knows, is refused."""
    given: dict[str, Any] = {}
    for word, value in words.items():
        name = ALIASES.get(word, word)
        if word in NOT_BUILT:
            if value is not None and value != "" and value is not False:
                raise RequestError(f"{word} is not supported", hint=NOT_BUILT[word])
            continue
        if name not in _CHECKS:
            close = get_close_matches(word, [*_CHECKS, *ALIASES], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_CHECKS)}"
            raise RequestError(f"sampling parameter {word!r} is not known", hint=hint)
        if name in given and given[name] != value and value is not None:
            raise RequestError(
                f"{name} is said twice: {given[name]!r}, and {value!r} as {word}",
                hint="say it once",
            )
        given[name] = value
    return given


def whole(low: int, high: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise OutOfRange(name, value, "must be a whole number")
        if not low <= value <= high:
            raise OutOfRange(name, value, f"must be from {low} to {high}")
        return value

    return check


def real(low: float, high: float, *, above: bool = False) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OutOfRange(name, value, "must be a number")
        least = value > low if above else value >= low
        if not math.isfinite(value) or not least or value > high:
            bound = f"above {low}" if above else f"at least {low}"
            raise OutOfRange(name, value, f"must be {bound} and at most {high}")
        return float(value)

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OutOfRange(name, value, "must be true or false")
    return value


def token_ids(most: int) -> Callable[[str, Any], tuple[int, ...]]:
    one = whole(0, 2**31 - 1)

    def check(name: str, value: Any) -> tuple[int, ...]:
        if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
            raise OutOfRange(name, value, "must be a list of token ids")
        if len(value) > most:
            raise OutOfRange(name, len(value), f"at most {most} tokens")
        return tuple(one(f"{name}[{place}]", item) for place, item in enumerate(value))

    return check


def _strings(most: int, most_bytes: int) -> Callable[[str, Any], tuple[str, ...]]:
    def check(name: str, value: Any) -> tuple[str, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise OutOfRange(name, value, "must be a string or a list of strings")
        if len(items) > most:
            raise OutOfRange(name, len(items), f"at most {most} strings")
        for place, item in enumerate(items):
            if not isinstance(item, str) or not item:
                raise OutOfRange(f"{name}[{place}]", item, "must be a string that is not empty")
            check_unicode(f"{name}[{place}]", item)
            if len(item.encode()) > most_bytes:
                raise OutOfRange(f"{name}[{place}]", item, f"at most {most_bytes} bytes")
        return tuple(items)

    return check


def check_unicode(name: str, text: str) -> None:
    """Refuse lone surrogates: they are no text, and no tokenizer or encoder takes them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OutOfRange(
            name, text[error.start : error.start + 1], "is not valid Unicode text"
        ) from None


def _bias(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, Mapping):
        raise OutOfRange(name, value, "must map token ids to numbers")
    if len(value) > LIMITS.max_bias_entries:
        raise OutOfRange(name, len(value), f"at most {LIMITS.max_bias_entries} entries")
    amount = real(-LIMITS.max_bias, LIMITS.max_bias)
    entries = []
    for key, number in value.items():
        digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 12
        token = int(key) if digits else key
        entries.append((whole(0, 2**31 - 1)(name, token), amount(f"{name}[{key!r}]", number)))
    return tuple(sorted(entries))


def _top_k(name: str, value: Any) -> int:
    if value in (-1, 0) and not isinstance(value, bool):
        return -1
    return whole(1, 2**31 - 1)(name, value)


_PENALTY = real(-LIMITS.max_penalty, LIMITS.max_penalty)
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_new_tokens": whole(0, 2**31 - 1),
    "min_new_tokens": whole(0, 2**31 - 1),
    "stop": _strings(LIMITS.max_stops, LIMITS.max_stop_bytes),
    "stop_token_ids": token_ids(LIMITS.max_stop_tokens),
    "temperature": real(0.0, LIMITS.max_temperature),
    "top_p": real(0.0, 1.0, above=True),
    "top_k": _top_k,
    "min_p": real(0.0, 1.0),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "repetition_penalty": real(0.0, LIMITS.max_repetition, above=True),
    "n": whole(1, LIMITS.max_samples),
    "ignore_eos": _flag,
    "skip_special_tokens": _flag,
    "spaces_between_special_tokens": _flag,
    "no_stop_trim": _flag,
    "stream_interval": whole(1, 2**20),
    "logit_bias": _bias,
    "sampling_seed": whole(-(2**63), 2**63 - 1),
    "bad_words": _strings(LIMITS.max_bad_words, LIMITS.max_stop_bytes),
    "allowed_token_ids": token_ids(LIMITS.max_allowed_tokens),
    "logprobs": whole(0, LIMITS.max_top_logprobs),
    "prompt_logprobs": whole(0, LIMITS.max_top_logprobs),
}
