"""From what a user asked to what the engine is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from espalier.errors import ContextTooLong, RequestError
from espalier.front.intake import Intake, ModelLimits, Prepared
from espalier.front.params import SamplingParams
from espalier.front.wishes import Wishes
from espalier.tokenizer.hf import HfTokenizer
from tests.bad_inputs import CANARY, bad_inputs
from tests.fakes_engine import Desk, FakeEngine, running

CONTEXT = 256
VOCABULARY = 485  # of the tests' byte-level tokenizer
BAD = bad_inputs(VOCABULARY, CONTEXT)


@pytest.fixture(scope="module")
def desk(tokenizer: HfTokenizer) -> Iterator[Desk]:
    with running(Desk(FakeEngine(), tokenizer, context_length=CONTEXT)) as made:
        yield made


def prepared(tokenizer: HfTokenizer | None, prompt: Any = (1, 2, 3), **words: Any) -> Prepared:
    """One prompt's, in a model of 100 tokens of context that ends texts with 7 and 8."""
    wishes = {word: words.pop(word) for word in list(words) if word in Wishes.__annotations__}
    limits = ModelLimits(vocabulary=VOCABULARY, context_length=100, ends=(7, 8))
    intake = Intake(tokenizer, limits, lambda: 99)
    return intake.prepare(prompt, SamplingParams(**words), Wishes.of(wishes))


def test_there_are_two_hundred_bad_inputs(tokenizer: HfTokenizer) -> None:
    assert len(BAD) >= 200
    assert tokenizer.size == VOCABULARY


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_refused_by_name_and_the_next_request_is_served(
    name: str, desk: Desk
) -> None:
    words = dict(BAD[name].words)
    params = words.pop("sampling_params", None)
    sent = len(desk.engine.seen)
    with pytest.raises(RequestError) as refused:
        desk.generate(words.pop("prompt", None), params, **words)
    assert BAD[name].names in refused.value.message
    assert len(str(refused.value)) < 1000
    assert len(desk.engine.seen) == sent, "nothing of it reaches the engine"
    canary = desk.generate(CANARY["prompt"], CANARY["sampling_params"])
    assert canary["meta_info"]["completion_tokens"] == 4


def test_a_default_length_is_fitted_to_the_context(tokenizer: HfTokenizer) -> None:
    assert prepared(tokenizer).max_tokens == 97
    assert prepared(tokenizer, max_new_tokens=None).max_tokens == 97
    assert prepared(tokenizer, max_new_tokens=20).max_tokens == 20
    assert prepared(tokenizer, max_new_tokens=97).max_tokens == 97


def test_a_length_that_was_said_must_fit(tokenizer: HfTokenizer) -> None:
    with pytest.raises(ContextTooLong, match=r"3 prompt tokens and 98 to generate.* of 100"):
        prepared(tokenizer, max_new_tokens=98)
    with pytest.raises(ContextTooLong, match="100 prompt tokens"):
        prepared(tokenizer, [1] * 100)


def test_the_models_stop_tokens_and_the_users_end_a_request(tokenizer: HfTokenizer) -> None:
    assert prepared(tokenizer, stop_token_ids=[5, 7]).sampling.stop == (7, 8, 5)
    assert prepared(tokenizer, stop_token_ids=[5], ignore_eos=True).sampling.stop == (5,)


def test_a_seed_is_drawn_only_where_none_was_given(tokenizer: HfTokenizer) -> None:
    assert prepared(tokenizer).sampling.seed == 99
    assert prepared(tokenizer, seed=0).sampling.seed == 0


def test_greedy_is_a_temperature_of_nothing_or_a_single_choice(tokenizer: HfTokenizer) -> None:
    assert prepared(tokenizer, temperature=0).sampling.temperature == 0.0
    assert prepared(tokenizer, top_k=1).sampling.temperature == 0.0
    assert prepared(tokenizer, top_k=VOCABULARY).sampling.top_k == 0
    assert prepared(tokenizer, top_k=5).sampling.top_k == 5


def test_text_is_encoded_as_an_operators_prompt(tokenizer: HfTokenizer) -> None:
    text = "The quick <|im_end|> 안녕"
    assert (
        prepared(tokenizer, text).prompt.tolist() == tokenizer.encode(text, special=True).tolist()
    )


def test_token_ids_may_be_any_sequence_of_them() -> None:
    for prompt in ([1, 2], (1, 2), np.array([1, 2]), np.array([1, 2], np.uint16)):
        assert prepared(None, prompt).prompt.tolist() == [1, 2]


def test_text_needs_a_tokenizer() -> None:
    for words in ({"prompt": "text"}, {"stop": "END"}, {"bad_words": ["no"]}):
        with pytest.raises(RequestError, match="without a tokenizer"):
            prepared(None, **words)


def test_bad_words_are_banned_at_a_texts_start_and_after_a_space(tokenizer: HfTokenizer) -> None:
    banned = prepared(tokenizer, bad_words=["dog"]).sampling.bad_words
    assert {tokenizer.decode(one) for one in banned} == {"dog", " dog"}


def test_log_probabilities_are_asked_for_in_either_familys_words(tokenizer: HfTokenizer) -> None:
    assert prepared(tokenizer).logprobs is None
    theirs = prepared(tokenizer, return_logprob=True, top_logprobs_num=2).logprobs
    assert theirs is not None
    assert (theirs.top, theirs.prompt_from) == (2, -1)
    assert theirs == prepared(tokenizer, logprobs=2).logprobs
    whole = prepared(tokenizer, prompt_logprobs=1).logprobs
    assert whole is not None
    assert whole.prompt_from == 0
    with pytest.raises(RequestError, match=r"logprob_start_len = 3.* 3 tokens"):
        prepared(tokenizer, return_logprob=True, logprob_start_len=3)


def test_samples_share_the_seed_and_differ_in_their_number(tokenizer: HfTokenizer) -> None:
    one = prepared(tokenizer, n=3)
    messages = [one.message(number, number) for number in range(3)]
    assert [message.sampling.sample for message in messages] == [0, 1, 2]
    assert {message.sampling.seed for message in messages} == {99}
