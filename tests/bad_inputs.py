"""Two hundred requests that nobody can serve, each with the word that its refusal has to name.

They are for any engine: `bad_inputs` is told the vocabulary and the context. Values are keywords of
`Engine.generate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NAN, INF = float("nan"), float("inf")
HUGE = 10**5000  # longer than Python writes out
SURROGATE = "half \ud800 a pair"
CANARY = {
    "prompt": "The quick brown fox",
    "sampling_params": {"max_new_tokens": 4, "temperature": 0, "ignore_eos": True},
}


@dataclass(frozen=True)
class Bad:
    """A call, and what its error must name."""

    words: dict[str, Any]
    names: str


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def bad_inputs(vocabulary: int, context_length: int) -> dict[str, Bad]:
    """All of them, by a name that says what is wrong."""
    table = [
        *_prompts(vocabulary, context_length),
        *_numbers(),
        *_lengths(context_length),
        *_lists(vocabulary),
        *_words(),
        *_beside(vocabulary),
        *_batches(),
    ]
    named = {}
    for names, words in table:
        number = sum(one.names == names for one in named.values())
        named[f"{names}-{number}"] = Bad(words, names)
    return named


def _params(**params: Any) -> dict[str, Any]:
    return {"prompt": "hello", "sampling_params": params}


def _prompts(vocabulary: int, context_length: int) -> list[tuple[str, dict[str, Any]]]:
    texts = [7, 1.5, b"bytes", {"text": "x"}, object(), "", SURROGATE, True, {"a"}, NAN]
    tokens = [
        [],
        (),
        [-1],
        [1, 2, -5],
        [vocabulary],
        [3, vocabulary + 1, 3],
        [2**31],
        [2**63],
        [HUGE],
        [-HUGE],
        [1.0],
        [NAN],
        [True],
        [1, None],
        [None],
        [b"x"],
        ["1", 2],
        7,
        1.5,
        {"a": 1},
        [{}],
        [[1, 2], 3],
        [[1], []],
        [[1], [vocabulary]],
        [[1], ["x"]],
        [[1], [[2]]],
        nested(50),
    ]
    too_long = [context_length, context_length + 1, 10 * context_length, 300_000]
    return [
        *(("prompt", {"prompt": one}) for one in texts),
        *(("input_ids", {"input_ids": one}) for one in tokens),
        *((str(length), {"input_ids": [1] * length}) for length in too_long),
        ("context", {"prompt": "word " * (4 * context_length)}),
        ("prompt", {"prompt": np.array(3)}),
        ("input_ids", {"input_ids": np.array(3)}),
        ("input_ids", {"input_ids": np.array([[1, 2]])}),
        ("input_ids", {"input_ids": np.array([0.5])}),
        ("input_ids", {"input_ids": np.array([], np.int32)}),
        ("input_ids", {"input_ids": np.array([2**63], np.uint64)}),
        ("prompt", {}),
        ("prompt", {"prompt": "x", "input_ids": [1]}),
    ]


def _numbers() -> list[tuple[str, dict[str, Any]]]:
    """Words that are numbers, with values out of their range or of no number at all."""
    odd: list[Any] = [NAN, INF, -INF, "1", True, [1], {}, HUGE, -HUGE]
    bad: dict[str, list[Any]] = {
        "temperature": [-0.1, 2.1, *odd],
        "top_p": [0.0, -0.5, 1.1, *odd],
        "top_k": [-2, 1.5, 2**31, *odd],
        "min_p": [-0.01, 1.01, *odd],
        "frequency_penalty": [-2.1, 2.1, *odd],
        "presence_penalty": [-2.1, 2.1, *odd],
        "repetition_penalty": [0.0, -1.0, 2.1, *odd],
        "n": [0, -1, 17, 1.0, *odd],
        "sampling_seed": [2**63, -(2**63) - 1, 0.5, *odd],
    }
    return [(name, _params(**{name: value})) for name, values in bad.items() for value in values]


def _lengths(context_length: int) -> list[tuple[str, dict[str, Any]]]:
    whole = [-1, 1.5, NAN, "8", True, HUGE, [4]]
    return [
        *(("max_new_tokens", _params(max_new_tokens=one)) for one in whole),
        *(("max_new_tokens", _params(max_tokens=one)) for one in (-1, "8")),
        *(("min_new_tokens", _params(min_new_tokens=one)) for one in whole),
        ("min_new_tokens", _params(min_new_tokens=9, max_new_tokens=8)),
        ("min_new_tokens", _params(min_new_tokens=context_length)),
        (str(context_length), _params(max_new_tokens=context_length)),
        (str(context_length), _params(max_tokens=2**31 - 1)),
        *(("stream_interval", _params(stream_interval=one)) for one in (0, -1, "1", 2**40)),
    ]


def _lists(vocabulary: int) -> list[tuple[str, dict[str, Any]]]:
    bad: dict[str, list[Any]] = {
        "stop": ["", [""], ["a", ""], [1], 7, {"a": 1}, "x" * 257, "é" * 129, ["s"] * 17],
        "stop_token_ids": [
            np.array(3),
            [-1],
            [vocabulary],
            [2**40],
            [1.0],
            ["a"],
            "1",
            3,
            [0] * 65,
            [[1]],
        ],
        "bad_words": ["", [1], 3, "x" * 257, ["w"] * 129, ["a", SURROGATE]],
        "allowed_token_ids": [[-1], [vocabulary], [True], "abc", 5],
        "logit_bias": [
            {-1: 0.5},
            {vocabulary: 0.5},
            {"x": 1.0},
            {"1.5": 1.0},
            {1: 101.0},
            {1: -101.0},
            {1: NAN},
            {1: INF},
            {1: "2"},
            {1: True},
            {None: 1.0},
            {"1": 1.0, 1: 2.0},
            [1, 2],
            "1",
            3,
            dict.fromkeys(range(1025), 1.0),
        ],
    }
    bad["stop"].append(SURROGATE)
    return [(name, _params(**{name: value})) for name, values in bad.items() for value in values]


def _words() -> list[tuple[str, dict[str, Any]]]:
    """Words that nobody knows, features that are not built, and one thing said twice."""
    not_built: dict[str, Any] = {
        "json_schema": "{}",
        "regex": "a+",
        "ebnf": "root ::= x",
        "structural_tag": {"a": 1},
        "stop_regex": "a",
        "beam_width": 2,
        "best_of": 2,
        "custom_params": {"a": 1},
        "logits_processors": [print],
        "watermark": {"a": 1},
        "guided_json": {"type": "object"},
        "truncate_prompt_tokens": 3,
        "typical_p": 0.5,
    }
    unknown: dict[str, Any] = {"temprature": 1.0, "self": 1, "max_length": 5, "says_length": True}
    flags = {
        name: value
        for name in ("ignore_eos", "skip_special_tokens", "no_stop_trim")
        for value in ("yes",)
    }
    return [
        *((name, _params(**{name: value})) for name, value in not_built.items()),
        *((name, _params(**{name: value})) for name, value in unknown.items()),
        *((name, _params(**{name: value})) for name, value in flags.items()),
        *((name, _params(**{name: 1})) for name in flags),
        ("max_new_tokens", _params(max_tokens=3, max_new_tokens=4)),
        ("sampling_seed", _params(seed=3, sampling_seed=4)),
        ("sampling_params", {"prompt": "x", "sampling_params": "hot"}),
        ("sampling_params", {"prompt": "x", "sampling_params": 3}),
        ("sampling_params", {"prompt": "x", "sampling_params": {1: 2}}),
        ("sampling_params", {"prompt": "x", "sampling_params": [{}]}),
        ("logprobs", _params(logprobs=-1)),
        ("logprobs", _params(logprobs=21)),
        ("logprobs", _params(logprobs=True)),
        ("prompt_logprobs", _params(prompt_logprobs=1.0)),
        ("prompt_logprobs", _params(prompt_logprobs=21)),
    ]


def _beside(vocabulary: int) -> list[tuple[str, dict[str, Any]]]:
    bad: dict[str, list[Any]] = {
        "return_logprob": ["yes", 1, 0.5],
        "logprob_start_len": [-2, 1.5, "0", 10_000, HUGE],
        "top_logprobs_num": [-1, 21, NAN, "5", True],
        "token_ids_logprob": [[-1], [vocabulary], "1", 5, [1.5], [0] * 1025],
        "priority": [2**31, -(2**31) - 1, 0.5, "high", True],
        "cache_salt": [5, "s" * 129, SURROGATE, ["a", "b"]],
        "rid": [5, "r" * 129, "Köln", "line\nbreak", "nul\0", SURROGATE],
        "stream": [1, "yes"],
        "image_data": ["http://nowhere.example/a.png"],
        "lora_path": ["adapter"],
        "session_params": [{"id": "a"}],
        "return_hidden_states": [True],
        "custom_logit_processor": ["code"],
        "temperature": [0.5],
    }
    with_logprobs = ("logprob_start_len", "top_logprobs_num", "token_ids_logprob")
    return [
        (name, {"prompt": "hello", name: value, **_logprobs(name in with_logprobs)})
        for name, values in bad.items()
        for value in values
    ] + [
        ("top_logprobs_num", {"prompt": "x", "top_logprobs_num": 3}),
        ("token_ids_logprob", {"prompt": "x", "token_ids_logprob": [1]}),
    ]


def _logprobs(wanted: bool) -> dict[str, Any]:
    return {"return_logprob": True} if wanted else {}


def _batches() -> list[tuple[str, dict[str, Any]]]:
    return [
        ("prompt", {"prompt": []}),
        ("prompt[1]", {"prompt": ["a", ""]}),
        ("prompt[1]", {"prompt": ["a", 3]}),
        ("prompt[1]", {"prompt": ["a", None]}),
        ("prompt[1]", {"prompt": ["a", SURROGATE]}),
        ("sampling_params", {"prompt": ["a", "b"], "sampling_params": [{}]}),
        ("sampling_params", {"prompt": ["a", "b"], "sampling_params": [{}, {}, {}]}),
        ("temperature", {"prompt": ["a", "b"], "sampling_params": [{}, {"temperature": 9}]}),
        ("rid", {"prompt": ["a", "b"], "rid": ["x"]}),
        ("rid", {"prompt": ["a", "b"], "rid": ["x", 3]}),
        ("priority", {"prompt": ["a", "b"], "priority": [1, 2, 3]}),
        ("cache_salt", {"prompt": ["a", "b"], "cache_salt": ["x", "y", "z"]}),
    ]
