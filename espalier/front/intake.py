"""From what a user asked to what the engine is told: prompts to tokens, words to numbers.

Every check that needs the model (its vocabulary, its context) is made here; those that need only
the words were made by `params.py`. What comes out is complete and can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from msgspec.structs import replace

from espalier.config.limits import LIMITS
from espalier.errors import ContextTooLong, OutOfRange, RequestError
from espalier.front.params import SamplingParams, check_unicode, token_ids, whole
from espalier.protocol.arrays import Ids, ids
from espalier.protocol.messages import Generate, RequestId
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.tokenizer.base import Tokenizer
from espalier.tokenizer.stop import StopAutomaton

Prompt: TypeAlias = "str | Sequence[int]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What the model and its cache can take."""

    vocabulary: int
    context_length: int  # the model's, or what the cache holds if that is less
    ends: tuple[int, ...]  # the model's own stop tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked beside the sampling parameters; the words are those of `Engine.generate`."""

    return_logprob: bool = False
    logprob_start_len: int = -1
    top_logprobs_num: int = 0
    token_ids_logprob: tuple[int, ...] = ()
    priority: int = 0
    cache_salt: str = ""
    label: str = ""  # the client's own id: shown, and never looked up by the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One prompt, ready to be sent `params.n` times."""

    prompt: Ids
    params: SamplingParams
    sampling: Sampling
    max_tokens: int
    logprobs: LogprobsWanted | None
    stops: StopAutomaton | None
    wishes: Wishes

    def message(self, request: RequestId, sample: int) -> Generate:
        sampling = self.sampling
        if sample:
            sampling = replace(sampling, sample=sample)
        return Generate(
            request=request,
            prompt=self.prompt,
            max_tokens=max(self.max_tokens, 1),
            sampling=sampling,
            logprobs=self.logprobs,
            priority=self.wishes.priority,
            namespace=self.wishes.cache_salt,
        )


class Intake:
    def __init__(
        self, tokenizer: Tokenizer | None, limits: ModelLimits, draw_seed: Callable[[], int]
    ) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        self._draw_seed = draw_seed

    def prepare(
        self, prompt: Prompt | Ids, params: SamplingParams, wishes: Wishes, name: str = "prompt"
    ) -> Prepared:
        tokens = self.tokens(prompt, name)
        self._check_ids("stop_token_ids", params.stop_token_ids)
        self._check_ids("logit_bias", tuple(token for token, _ in params.logit_bias))
        self._check_ids("allowed_token_ids", params.allowed_token_ids)
        self._check_ids("token_ids_logprob", wishes.token_ids_logprob)
        return Prepared(
            prompt=tokens,
            params=params,
            sampling=self._sampling(params),
            max_tokens=self._max_tokens(len(tokens), params),
            logprobs=_logprobs(params, wishes, len(tokens)),
            stops=self._stops(params),
            wishes=wishes,
        )

    def tokens(self, prompt: Prompt | Ids, name: str) -> Ids:
        """A prompt's tokens, whatever it is written as."""
        if isinstance(prompt, np.ndarray):
            prompt = prompt.tolist()
        if isinstance(prompt, str):
            return self._encoded(prompt, name)
        if isinstance(prompt, bytes) or not isinstance(prompt, list | tuple):
            raise OutOfRange(name, prompt, "must be a string or a list of token ids")
        if not prompt:
            raise OutOfRange(name, prompt, "must hold at least one token")
        self._check_length(len(prompt), 1)
        checked = token_ids(self._limits.context_length)(name, prompt)
        self._check_ids(name, checked)
        return ids(checked)

    def _encoded(self, text: str, name: str) -> Ids:
        if self._tokenizer is None:
            raise RequestError(
                f"{name} is text, and the engine was started without a tokenizer",
                hint="send input_ids, or start without skip_tokenizer_init",
            )
        if not text:
            raise OutOfRange(name, text, "must not be empty")
        if len(text) > LIMITS.max_prompt_characters:
            raise OutOfRange(name, len(text), f"at most {LIMITS.max_prompt_characters} characters")
        check_unicode(name, text)
        tokens = self._tokenizer.encode(text, special=True)
        if not len(tokens):
            raise OutOfRange(name, text, "gives no token")
        self._check_ids(name, tokens)
        return tokens

    def _check_ids(self, name: str, tokens: Sequence[int] | Ids) -> None:
        last = self._limits.vocabulary - 1
        for place, token in enumerate(tokens):
            if not 0 <= token <= last:
                where = name if len(tokens) == 1 else f"{name}[{place}]"
                raise OutOfRange(where, int(token), f"token ids are from 0 to {last}")

    def _check_length(self, prompt: int, completion: int) -> None:
        limit = self._limits.context_length
        if prompt + completion > limit:
            raise ContextTooLong(prompt=prompt, completion=completion, limit=limit)

    def _max_tokens(self, prompt: int, params: SamplingParams) -> int:
        """What was said must fit; a default, or no limit at all, is fitted to the context."""
        self._check_length(prompt, 0 if params.max_new_tokens == 0 else 1)
        room = self._limits.context_length - prompt
        if params.max_new_tokens is None:
            most = room
        elif params.says_length:
            self._check_length(prompt, params.max_new_tokens)
            most = params.max_new_tokens
        else:
            most = min(params.max_new_tokens, room)
        if params.min_new_tokens > most:
            raise OutOfRange("min_new_tokens", params.min_new_tokens, f"at most {most} fit")
        return most

    def _sampling(self, params: SamplingParams) -> Sampling:
        ends = () if params.ignore_eos else self._limits.ends
        seed = self._draw_seed() if params.sampling_seed is None else params.sampling_seed
        return Sampling(
            temperature=0.0
            if params.temperature < 1e-6 or params.top_k == 1
            else params.temperature,
            top_k=max(params.top_k, 0),
            top_p=params.top_p,
            min_p=params.min_p,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            repetition_penalty=params.repetition_penalty,
            min_tokens=params.min_new_tokens,
            stop=tuple(dict.fromkeys((*ends, *params.stop_token_ids))),
            bias=params.logit_bias,
            allowed=params.allowed_token_ids,
            bad_words=self._bad_words(params.bad_words),
            seed=seed,
        )

    def _bad_words(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Each word's tokens, at the beginning of a text and after a space."""
        if not words:
            return ()
        if self._tokenizer is None:
            raise RequestError(
                "bad_words are text, and the engine was started without a tokenizer",
                hint="use logit_bias, or start without skip_tokenizer_init",
            )
        encode = self._tokenizer.encode_plain
        both = [encode(text) for word in words for text in (word, " " + word.lstrip())]
        return tuple(dict.fromkeys(tuple(tokens.tolist()) for tokens in both if len(tokens)))

    def _stops(self, params: SamplingParams) -> StopAutomaton | None:
        if not params.stop:
            return None
        if self._tokenizer is None:
            raise RequestError(
                "stop strings are text, and the engine was started without a tokenizer",
                hint="use stop_token_ids, or start without skip_tokenizer_init",
            )
        return StopAutomaton(params.stop)


def wishes_of(words: dict[str, Any]) -> Wishes:
    """The checked form of the words beside the sampling parameters."""
    flag = words.get("return_logprob") or False
    if not isinstance(flag, bool):
        raise OutOfRange("return_logprob", flag, "must be true or false")
    label = words.get("rid") or ""
    if not isinstance(label, str) or len(label) > LIMITS.max_label_characters:
        raise OutOfRange("rid", label, f"a string of at most {LIMITS.max_label_characters}")
    if not label.isprintable() or not label.isascii():
        raise OutOfRange("rid", label, "must be printable ASCII")
    salt = words.get("cache_salt") or ""
    if not isinstance(salt, str) or len(salt) > LIMITS.max_label_characters:
        raise OutOfRange("cache_salt", salt, f"a string of at most {LIMITS.max_label_characters}")
    check_unicode("cache_salt", salt)
    return Wishes(
        return_logprob=flag,
        logprob_start_len=_whole(words, "logprob_start_len", -1, 2**31 - 1, -1),
        top_logprobs_num=_whole(words, "top_logprobs_num", 0, LIMITS.max_top_logprobs, 0),
        token_ids_logprob=token_ids(LIMITS.max_listed_logprobs)(
            "token_ids_logprob", words.get("token_ids_logprob") or ()
        ),
        priority=_whole(words, "priority", -(2**31), 2**31 - 1, 0),
        cache_salt=salt,
        label=label,
    )


def _whole(words: dict[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = words.get(name)
    return default if value is None else whole(low, high)(name, value)


def _logprobs(params: SamplingParams, wishes: Wishes, prompt: int) -> LogprobsWanted | None:
    """Either family's words: SGLang's beside the parameters, vLLM's among them."""
    asked = wishes.return_logprob or params.logprobs is not None
    if not asked and params.prompt_logprobs is None:
        return None
    start = wishes.logprob_start_len
    if start >= prompt:
        raise OutOfRange("logprob_start_len", start, f"the prompt has {prompt} tokens")
    return LogprobsWanted(
        top=max(wishes.top_logprobs_num, params.logprobs or 0, params.prompt_logprobs or 0),
        listed=wishes.token_ids_logprob,
        prompt_from=0 if params.prompt_logprobs is not None else start,
    )
