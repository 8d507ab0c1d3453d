"""`Engine.generate`'s arguments as a list of prompts, each with its parameters.

One prompt or many, as text or as token ids, with one set of parameters or one for each: the forms
that SGLang's Engine takes, told apart here once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espalier.errors import OutOfRange, RequestError
from espalier.front.intake import Intake, Prepared, wishes_of
from espalier.front.params import SamplingParams

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
ASIDE = (
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "token_ids_logprob",
    "priority",
    "cache_salt",
    "rid",
)


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
    for word, value in words.items():
        if word in NOT_BUILT and value is not None and value is not False:
            raise RequestError(f"{word} is not supported", hint=NOT_BUILT[word])
        if word not in NOT_BUILT and word not in ASIDE:
            raise RequestError(f"generate() takes no {word!r}", hint=f"known: {', '.join(ASIDE)}")
    prompts, name, single = _prompts(prompt, input_ids)
    params = _params(sampling_params, len(prompts), single=single)
    prepared = [
        intake.prepare(
            one,
            params[place],
            wishes_of({word: _item(words, word, place, single=single) for word in ASIDE}),
            name if single else f"{name}[{place}]",
        )
        for place, one in enumerate(prompts)
    ]
    return Asked(prepared, single and params[0].n == 1)


def _prompts(prompt: Any, input_ids: Any) -> tuple[Sequence[Any], str, bool]:
    if (prompt is None) == (input_ids is None):
        raise RequestError(
            "generate() takes either prompt or input_ids", hint="give one of the two"
        )
    name, value = ("prompt", prompt) if input_ids is None else ("input_ids", input_ids)
    if isinstance(value, str) or not isinstance(value, list | tuple):
        return [value], name, True
    if not value:
        raise OutOfRange(name, value, "must not be empty")
    many = isinstance(value[0], str | list | tuple)
    return (value, name, False) if many else ([value], name, True)


def _params(given: Any, count: int, *, single: bool) -> list[SamplingParams]:
    if not isinstance(given, list | tuple):
        return [SamplingParams.of(given)] * count
    if single or len(given) != count:
        raise OutOfRange("sampling_params", len(given), f"there are {count} prompts")
    return [SamplingParams.of(one) for one in given]


def _item(words: Mapping[str, Any], word: str, place: int, *, single: bool) -> Any:
    """A word said once for all prompts, or one of a list with one for each."""
    value = words.get(word)
    nested = word == "token_ids_logprob"
    if single or not isinstance(value, list | tuple):
        return value
    if nested and not (value and isinstance(value[0], list | tuple)):
        return value
    if place >= len(value):
        raise OutOfRange(word, len(value), "there are more prompts")
    return value[place]
