"""From what a user asked to what the engine is told: prompts to tokens, words to numbers.

Every check that needs the model (its vocabulary, its context) is made here; those that need only
the words were made by `params.py` and `wishes.py`. What comes out is complete and can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from espalier.config.limits import LIMITS
from espalier.errors import ContextTooLong, RequestError
from espalier.front.checks import check_vocabulary, is_sequence, refused, token_array
from espalier.front.params import SamplingParams
from espalier.front.wishes import Wishes
from espalier.protocol.arrays import Ids
from espalier.protocol.messages import Generate, RequestId
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.tokenizer.base import Tokenizer, check_text
from espalier.tokenizer.stop import StopAutomaton

GREEDY = 1e-6  # a temperature below it means: the likeliest token


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What the model and its cache can take."""

    vocabulary: int
    context_length: int  # the model's, or what the cache holds if that is less
    ends: tuple[int, ...] = ()  # the model's own stop tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One prompt, ready to be sent `params.n` times."""

    prompt: Ids
    params: SamplingParams
    sampling: Sampling
    max_tokens: int  # 0: only the prompt is wanted
    logprobs: LogprobsWanted | None
    stops: StopAutomaton | None
    wishes: Wishes

    def message(self, request: RequestId, sample: int) -> Generate:
        """What the engine is told of one sample; the least that it generates is one token."""
        return Generate(
            request=request,
            prompt=self.prompt,
            max_tokens=max(self.max_tokens, 1),
            sampling=replace(self.sampling, sample=sample) if sample else self.sampling,
            logprobs=self.logprobs,
            priority=self.wishes.priority,
            namespace=self.wishes.cache_salt,
        )


class Intake:
    """Safe to use from several threads."""

    def __init__(
        self, tokenizer: Tokenizer | None, limits: ModelLimits, draw_seed: Callable[[], int]
    ) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        self._draw_seed = draw_seed

    def prepare(
        self, prompt: Any, params: SamplingParams, wishes: Wishes, name: str = "prompt"
    ) -> Prepared:
        """A prompt (text, or token ids) with its words, checked. Raises RequestError."""
        vocabulary = self._limits.vocabulary
        biased = tuple(token for token, _ in params.logit_bias)
        check_vocabulary("stop_token_ids", params.stop_token_ids, vocabulary)
        check_vocabulary("logit_bias", biased, vocabulary)
        check_vocabulary("allowed_token_ids", params.allowed_token_ids, vocabulary)
        check_vocabulary("token_ids_logprob", wishes.token_ids_logprob, vocabulary)
        tokens = self.tokens(prompt, name)
        return Prepared(
            prompt=tokens,
            params=params,
            max_tokens=self._max_tokens(len(tokens), params),
            logprobs=_logprobs(params, wishes, len(tokens)),
            stops=self._stops(params),
            sampling=self._sampling(params),
            wishes=wishes,
        )

    def tokens(self, prompt: Any, name: str) -> Ids:
        """A prompt's tokens, whatever it is written as."""
        if isinstance(prompt, str):
            tokens = self._encoded(prompt, name)
        elif is_sequence(prompt):
            if not len(prompt):
                raise refused(name, prompt, "must hold at least one token")
            self._check_length(len(prompt), 1)
            tokens = token_array(name, list(prompt))
        else:
            raise refused(name, prompt, "must be a string or a list of token ids")
        check_vocabulary(name, tokens, self._limits.vocabulary)
        return tokens

    def _encoded(self, text: str, name: str) -> Ids:
        tokenizer = self._needed(name)
        if not text:
            raise refused(name, text, "must not be empty")
        if len(text) > LIMITS.max_prompt_characters:
            wanted = f"at most {LIMITS.max_prompt_characters} characters, not {len(text)}"
            raise refused(name, text, wanted)
        check_text(text, name)
        tokens = tokenizer.encode(text, special=True)
        if not len(tokens):
            raise refused(name, text, "gives no token")
        return tokens

    def _needed(self, name: str) -> Tokenizer:
        if self._tokenizer is None:
            raise RequestError(
                f"{name} is text, and the engine was started without a tokenizer",
                hint="use token ids, or start without skip_tokenizer_init",
            )
        return self._tokenizer

    def _check_length(self, prompt: int, completion: int) -> None:
        limit = self._limits.context_length
        if prompt + completion > limit:
            raise ContextTooLong(prompt=prompt, completion=completion, limit=limit)

    def _max_tokens(self, prompt: int, params: SamplingParams) -> int:
        """What was said must fit; a default, or no limit at all, is fitted to the context."""
        self._check_length(prompt, 1)
        most = self._limits.context_length - prompt
        if params.max_new_tokens is not None:
            if params.says_length:
                self._check_length(prompt, params.max_new_tokens)
            most = min(params.max_new_tokens, most)
        if params.min_new_tokens > most:
            wanted = f"at most {most} tokens are generated"
            hint = "" if params.says_length else "set max_new_tokens"
            raise refused("min_new_tokens", params.min_new_tokens, wanted, hint=hint)
        return most

    def _sampling(self, params: SamplingParams) -> Sampling:
        ends = () if params.ignore_eos else self._limits.ends
        greedy = params.temperature < GREEDY or params.top_k == 1
        all_tokens = params.top_k < 0 or params.top_k >= self._limits.vocabulary
        return Sampling(
            temperature=0.0 if greedy else params.temperature,
            top_k=0 if all_tokens else params.top_k,
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
            seed=self._draw_seed() if params.sampling_seed is None else params.sampling_seed,
        )

    def _bad_words(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Each word's tokens, at the beginning of a text and after a space."""
        if not words:
            return ()
        encode = self._needed("bad_words").encode_plain
        found: dict[tuple[int, ...], None] = {}
        for place, word in enumerate(words):
            for text in (word, " " + word.lstrip()):
                tokens = encode(text)
                if len(tokens) > LIMITS.max_bad_word_tokens:
                    wanted = f"at most {LIMITS.max_bad_word_tokens} tokens"
                    raise refused(f"bad_words[{place}]", word, wanted)
                if len(tokens):
                    found[tuple(tokens.tolist())] = None
        return tuple(found)

    def _stops(self, params: SamplingParams) -> StopAutomaton | None:
        if not params.stop:
            return None
        self._needed("stop")
        return StopAutomaton(params.stop)


def _logprobs(params: SamplingParams, wishes: Wishes, prompt: int) -> LogprobsWanted | None:
    """Either family's words: SGLang's beside the parameters, vLLM's among them."""
    asked = wishes.return_logprob or params.logprobs is not None
    if not asked and params.prompt_logprobs is None:
        return None
    start = wishes.logprob_start_len
    if start >= prompt:
        raise refused("logprob_start_len", start, f"the prompt has {prompt} tokens")
    return LogprobsWanted(
        top=max(wishes.top_logprobs_num, params.logprobs or 0, params.prompt_logprobs or 0),
        listed=wishes.token_ids_logprob,
        prompt_from=0 if params.prompt_logprobs is not None else start,
    )
