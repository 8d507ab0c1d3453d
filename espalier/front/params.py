"""`SamplingParams`: what a user writes, in SGLang's words or vLLM's. Everything is checked here.

Unknown words, wrong types, values out of range and features that are not built are refused by name;
nothing is ignored. `None` always means the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from espalier.config.limits import LIMITS
from espalier.errors import RequestError
from espalier.front.checks import (
    MAX_TOKEN,
    Check,
    flag,
    real,
    refused,
    strings,
    token_ids,
    whole,
)

# vLLM's and OpenAI's words for the same.
ALIASES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "seed": "sampling_seed",
    "include_stop_str_in_output": "no_stop_trim",
}
_STRUCTURED = "structured output is not built yet; ask for it in the prompt, and check the answer"
_BEAMS = "use n, with a temperature above 0"
_CODE = "code, and parameters for code, are never taken from a request"
_SHAPED = "use temperature, top_k, top_p and min_p"
# Words whose features are not built: refused when they ask for something.
NOT_BUILT = {
    "json_schema": _STRUCTURED,
    "regex": _STRUCTURED,
    "ebnf": _STRUCTURED,
    "grammar": _STRUCTURED,
    "structural_tag": _STRUCTURED,
    "structured_outputs": _STRUCTURED,
    "guided_decoding": _STRUCTURED,
    "guided_json": _STRUCTURED,
    "guided_regex": _STRUCTURED,
    "guided_choice": _STRUCTURED,
    "guided_grammar": _STRUCTURED,
    "stop_regex": "use stop, with the strings themselves",
    "beam_width": _BEAMS,
    "use_beam_search": _BEAMS,
    "best_of": "use n, and choose among the answers",
    "length_penalty": _BEAMS,
    "custom_params": _CODE,
    "custom_logit_processor": _CODE,
    "logits_processors": _CODE,
    "extra_args": _CODE,
    "watermark": "watermarks are not built",
    "thinking_token_budget": "use max_new_tokens",
    "truncate_prompt_tokens": "shorten the prompt before it is sent",
    "logprob_token_ids": "use token_ids_logprob of generate()",
    "repetition_detection": "use repetition_penalty",
    "skip_reading_prefix_cache": "use a cache_salt of its own",
    "typical_p": _SHAPED,
    "top_n_sigma": _SHAPED,
    "tfs_z": _SHAPED,
    "xtc_probability": _SHAPED,
    "dry_multiplier": "use repetition_penalty or frequency_penalty",
    "mirostat": _SHAPED,
    "dynatemp_range": _SHAPED,
}


@dataclass(frozen=True, init=False, eq=False)
class SamplingParams:
    """How to continue a prompt. Fields and defaults are SGLang's; vLLM's words mean the same."""

    max_new_tokens: int | None = 128  # None: to the end of the context
    min_new_tokens: int = 0  # before that no stop token is chosen, and no stop string looked for
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    temperature: float = 1.0  # 0: the likeliest token, always
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    n: int = 1
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True  # as it always is
    no_stop_trim: bool = False
    stream_interval: int = 1
    logit_bias: tuple[tuple[int, float], ...] = ()
    sampling_seed: int | None = None  # None: one is drawn, and said in the reply
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None  # vLLM's: so many likeliest tokens beside each one chosen
    prompt_logprobs: int | None = None  # the same for the prompt
    says_length: bool = field(default=False, repr=False)  # a default is fitted to the context

    def __init__(self, /, **words: Any) -> None:
        given = _renamed(words)
        for name, check in _CHECKS.items():
            value = given.get(name)
            default = getattr(type(self), name)
            object.__setattr__(self, name, default if value is None else check(name, value))
        if "max_new_tokens" in given and given["max_new_tokens"] is None:
            object.__setattr__(self, "max_new_tokens", None)
        object.__setattr__(self, "says_length", given.get("max_new_tokens") is not None)
        most = self.max_new_tokens
        if self.says_length and most is not None and self.min_new_tokens > most:
            raise refused("min_new_tokens", self.min_new_tokens, f"max_new_tokens is {most}")

    def __eq__(self, other: object) -> bool:
        """Equal to a dict that says the same."""
        if isinstance(other, Mapping):
            try:
                return self == SamplingParams.of(other)
            except RequestError:
                return False
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
            raise refused("sampling_params", words, "must be a SamplingParams or a dict")
        for name in words:
            if not isinstance(name, str):
                raise refused("sampling_params", name, "its keys must be strings")
        return SamplingParams(**words)


def _renamed(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words under our names; one thing said twice, or a word nobody knows, is refused."""
    given: dict[str, Any] = {}
    for word, value in words.items():
        name = ALIASES.get(word, word)
        if word in NOT_BUILT:
            if _asks(value):
                raise RequestError(f"{word} is not supported", hint=NOT_BUILT[word])
        elif name not in _CHECKS:
            raise _unknown(word)
        elif name not in given or given[name] is None:
            given[name] = value
        elif value is not None and not _same(given[name], value):
            raise refused(word, value, f"{name} is given as well, and is not the same")
    return given


def _asks(value: Any) -> bool:
    """Whether a word for something that is not built asks for it: empty values do not."""
    if value is None or value is False:
        return False
    return not (isinstance(value, str | list | tuple | Mapping) and not value)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _unknown(word: str) -> RequestError:
    known = [*_CHECKS, *ALIASES]
    close = get_close_matches(word[:64], [*known, *NOT_BUILT], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return RequestError(f"sampling parameter {word[:64]!r} is not known", hint=hint)


def _bias(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """Token ids, as numbers or as JSON's keys, and what is added to their logits."""
    if not isinstance(value, Mapping):
        raise refused(name, value, "must map token ids to numbers")
    if len(value) > LIMITS.max_bias_entries:
        raise refused(name, value, f"at most {LIMITS.max_bias_entries} entries, not {len(value)}")
    token, amount = whole(0, MAX_TOKEN), real(-LIMITS.max_bias, LIMITS.max_bias)
    entries: dict[int, float] = {}
    for key, number in value.items():
        digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 12
        chosen = token(f"{name}: a key", int(key) if digits else key)
        if chosen in entries:
            raise refused(name, chosen, "this token is there twice")
        entries[chosen] = amount(f"{name}[{chosen}]", number)
    return tuple(sorted(entries.items()))


def _top_k(name: str, value: Any) -> int:
    """-1 means all tokens; so does 0, for vLLM."""
    chosen = whole(-1, MAX_TOKEN)(name, value)
    return chosen or -1


_PENALTY = real(-LIMITS.max_penalty, LIMITS.max_penalty)
_CHECKS: dict[str, Check] = {
    "max_new_tokens": whole(0, MAX_TOKEN),
    "min_new_tokens": whole(0, MAX_TOKEN),
    "stop": strings(LIMITS.max_stops, LIMITS.max_stop_bytes),
    "stop_token_ids": token_ids(LIMITS.max_stop_tokens),
    "temperature": real(0.0, LIMITS.max_temperature),
    "top_p": real(0.0, 1.0, above=True),
    "top_k": _top_k,
    "min_p": real(0.0, 1.0),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "repetition_penalty": real(0.0, LIMITS.max_repetition, above=True),
    "n": whole(1, LIMITS.max_samples),
    "ignore_eos": flag,
    "skip_special_tokens": flag,
    "spaces_between_special_tokens": flag,
    "no_stop_trim": flag,
    "stream_interval": whole(1, 2**20),
    "logit_bias": _bias,
    "sampling_seed": whole(-(2**63), 2**63 - 1),
    "bad_words": strings(LIMITS.max_bad_words, LIMITS.max_stop_bytes),
    "allowed_token_ids": token_ids(LIMITS.max_allowed_tokens),
    "logprobs": whole(0, LIMITS.max_top_logprobs),
    "prompt_logprobs": whole(0, LIMITS.max_top_logprobs),
}
