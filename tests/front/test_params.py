"""The words of a request, as users of SGLang and vLLM write them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import espalier
from espalier.errors import OutOfRange, RequestError
from espalier.front.params import _CHECKS, ALIASES, NOT_BUILT, SamplingParams


def test_it_is_a_public_name_with_sglangs_defaults() -> None:
    params = espalier.SamplingParams()
    assert (params.max_new_tokens, params.temperature, params.top_p) == (128, 1.0, 1.0)
    assert (params.top_k, params.min_p, params.n, params.stop) == (-1, 0.0, 1, ())
    assert not params.ignore_eos
    assert params.skip_special_tokens


def test_it_equals_a_dict_that_means_the_same() -> None:
    params = SamplingParams(temperature=0.7, max_new_tokens=512, stop="END")
    assert params == {"temperature": 0.7, "max_tokens": 512, "stop": ["END"]}
    assert params != {"temperature": 0.7}
    assert params != {"temperature": "hot"}
    assert params == SamplingParams.of({"temperature": 0.7, "max_new_tokens": 512, "stop": "END"})
    assert copy.deepcopy(params) == params


def test_the_words_of_vllm_mean_the_same() -> None:
    words = {"max_tokens": 7, "min_tokens": 2, "seed": 3, "include_stop_str_in_output": True}
    ours = SamplingParams(max_new_tokens=7, min_new_tokens=2, sampling_seed=3, no_stop_trim=True)
    assert SamplingParams(**words) == ours


@pytest.mark.parametrize("name", [*_CHECKS, *ALIASES, *NOT_BUILT])
def test_none_is_the_default(name: str) -> None:
    params = SamplingParams(**{name: None})
    if ALIASES.get(name, name) == "max_new_tokens":
        assert params.max_new_tokens is None
    else:
        assert params == SamplingParams()


def test_a_misspelt_word_is_told_the_right_one() -> None:
    with pytest.raises(RequestError, match="did you mean 'temperature'"):
        SamplingParams(temprature=1.0)


def test_numbers_of_numpy_are_numbers() -> None:
    params = SamplingParams(temperature=np.float32(0.5), top_k=np.int64(3), n=np.int32(2))
    assert (params.temperature, params.top_k, params.n) == (0.5, 3, 2)
    assert type(params.top_k) is int


def test_the_ends_of_every_range_are_in_it() -> None:
    for words in (
        {"temperature": 0, "top_p": 1, "min_p": 0, "frequency_penalty": -2, "n": 1},
        {"temperature": 2, "min_p": 1, "presence_penalty": 2, "repetition_penalty": 2, "n": 16},
        {"sampling_seed": 2**63 - 1, "logit_bias": {"5": 100, 6: -100}, "top_k": 0},
    ):
        SamplingParams(**words)


def test_keys_of_logit_bias_may_be_strings_as_in_json() -> None:
    assert SamplingParams(logit_bias={"5": 1}) == {"logit_bias": {5: 1.0}}


@pytest.mark.parametrize("name", NOT_BUILT)
def test_what_is_not_built_is_refused_by_name_with_a_way_out(name: str) -> None:
    with pytest.raises(RequestError, match=name) as refused:
        SamplingParams(**{name: "something"})
    assert refused.value.hint
    SamplingParams(**{name: ""})


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**30, 10**40)
    | st.floats(allow_nan=True)
    | st.text(st.characters(), max_size=8)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(_CHECKS)), value=ANYTHING)
def test_any_value_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    refusal = None
    try:
        params = SamplingParams(**{name: value})
    except OutOfRange as error:
        refusal = error
    else:
        assert SamplingParams(**{name: value}) == params
    if refusal is not None:
        assert refusal.parameter.startswith(name)
        assert len(str(refusal)) < 400
