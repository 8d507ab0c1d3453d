"""`Engine.generate`'s arguments as a list of prompts, each with its parameters.

One prompt or many, as text or as token ids, with one set of parameters or one for each: the forms
that SGLang's Engine takes, told apart here once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.errors import RequestError
from espalier.front.checks import refused
from espalier.front.intake import Intake, Prepared
from espalier.front.params import SamplingParams
from espalier.front.wishes import WORDS, Wishes
from espalier.tokenizer.base import LONG_TEXT

# Arguments of `generate` whose features are not built; refused when they ask for something.
NOT_BUILT = {
    "image_data": "this engine takes text only",
    "audio_data": "this engine takes text only",
    "video_data": "this engine takes text only",
    "lora_path": "adapters are not built yet; merge the adapter into the checkpoint",
    "custom_logit_processor": "code is never taken from a request",
    "require_reasoning": "reasoning parsers are not built yet",
    "return_hidden_states": "hidden states are not built yet",
    "return_routed_experts": "routed experts are not built yet",
    "session_params": "sessions are not built yet; send the whole prompt, its prefix is cached",
    "session_id": "sessions are not built yet; send the whole prompt, its prefix is cached",
    "input_embeds": "embeddings as input are not built yet; send input_ids",
    "bootstrap_host": "prefill and decode on different machines is not built yet",
    "bootstrap_room": "prefill and decode on different machines is not built yet",
    "data_parallel_rank": "data parallelism is not built yet",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that one call asks for."""

    prepared: list[Prepared]
    is_single: bool  # one prompt, one sample: the reply is a dict and not a list


def ask(
    intake: Intake,
    prompt: Any,
    input_ids: Any,
    sampling_params: Any,
    words: Mapping[str, Any],
) -> Asked:
    """Everything checked, and nothing sent. Raises RequestError."""
    for word, value in words.items():
        if word in NOT_BUILT:
            if value is not None and value is not False:
                raise RequestError(f"{word} is not supported", hint=NOT_BUILT[word])
        elif word not in WORDS:
            raise RequestError(f"generate() takes no {word!r}", hint=f"known: {', '.join(WORDS)}")
    prompts, name, single = _prompts(prompt, input_ids)
    params = _params(sampling_params, len(prompts), single=single)
    wishes = _wishes(words, len(prompts), single=single)
    prepared = [
        intake.prepare(one, params[place], wishes[place], name if single else f"{name}[{place}]")
        for place, one in enumerate(prompts)
    ]
    return Asked(prepared, single and params[0].n == 1)


def _prompts(prompt: Any, input_ids: Any) -> tuple[Sequence[Any], str, bool]:
    """The prompts, what the caller called them, and whether it is a single one."""
    if (prompt is None) == (input_ids is None):
        raise RequestError(
            "generate() takes either prompt or input_ids", hint="give one of the two"
        )
    name, value = ("prompt", prompt) if input_ids is None else ("input_ids", input_ids)
    if not isinstance(value, list | tuple):
        return [value], name, True
    if not value:
        raise refused(name, value, "must not be empty")
    many = isinstance(value[0], str | list | tuple | np.ndarray)
    return (value, name, False) if many else ([value], name, True)


def _params(given: Any, count: int, *, single: bool) -> Sequence[SamplingParams]:
    if not isinstance(given, list | tuple):
        return [SamplingParams.of(given)] * count
    if single or len(given) != count:
        wanted = "one for all" if single else f"one for all, or a list of {count}"
        raise refused("sampling_params", given, wanted)
    return [SamplingParams.of(one) for one in given]


def _wishes(words: Mapping[str, Any], count: int, *, single: bool) -> Sequence[Wishes]:
    """Words said once are for all prompts; a list has one for each."""
    lists = (
        {} if single else {word: value for word, value in words.items() if _is_each(word, value)}
    )
    for word, value in lists.items():
        if len(value) != count:
            raise refused(word, value, f"one for all, or a list of {count}")
    if not lists:
        return [Wishes.of(words)] * count
    return [
        Wishes.of({**words, **{word: value[place] for word, value in lists.items()}})
        for place in range(count)
    ]


def _is_each(word: str, value: Any) -> bool:
    if word in NOT_BUILT or not isinstance(value, list | tuple):
        return False
    nested = word == "token_ids_logprob"  # a list already where it is said once
    return not nested or any(isinstance(one, list | tuple) for one in value)


def is_long(prompt: Any) -> bool:
    """Whether encoding it would keep an event loop waiting."""
    texts = prompt if isinstance(prompt, list | tuple) else (prompt,)
    return sum(len(text) for text in texts if isinstance(text, str)) > LONG_TEXT
