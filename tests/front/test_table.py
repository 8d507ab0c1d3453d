"""The request table: tokens to text, stop strings, log probabilities, and one end for each."""

from __future__ import annotations

import codecs
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.errors import EngineError
from espalier.front.table import Watch
from espalier.protocol.messages import Abort, RequestId
from espalier.tokenizer.hf import HfTokenizer
from tests.fakes import score
from tests.fakes_engine import Desk, FakeEngine, hashed, running, said

PROMPT = [5, 6, 7]


def answered(tokenizer: HfTokenizer | None, tokens: list[int], **words: Any) -> dict[str, Any]:
    """The reply when the engine says these tokens, `burst` of them a step."""
    burst = words.pop("burst", 1)
    ends = words.pop("ends", ())
    aside = {word: words.pop(word) for word in list(words) if word.startswith("return_")}
    words = {"max_new_tokens": len(tokens), **words}
    with running(Desk(FakeEngine(said(tokens), burst=burst), tokenizer, ends=ends)) as desk:
        reply: dict[str, Any] = desk.generate(input_ids=PROMPT, params=words, **aside)
        return reply


def spelt(tokenizer: HfTokenizer, text: str) -> list[int]:
    return tokenizer.encode_plain(text).tolist()


def naive(
    tokenizer: HfTokenizer, tokens: list[int], stops: list[str], *, include: bool
) -> tuple[str, int, str | None]:
    """Text, number of tokens and the stop: the text so far is searched anew after each token."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, final = "", ""
    for count, token in enumerate([*tokens, None], 1):
        final = "" if token is not None else decoder.decode(b"", final=True)
        text += decoder.decode(tokenizer.visible[token]) if token is not None else final
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
        if found:
            end, size, stop = min(found)
            return text[: end if include else end + size], min(count, len(tokens)), stop
    return text, len(tokens), None


@settings(max_examples=150, deadline=None)
@given(data=st.data(), burst=st.integers(1, 5), include=st.booleans())
def test_text_and_tokens_are_cut_at_the_first_stop_however_they_come(
    tokenizer: HfTokenizer, data: st.DataObject, burst: int, include: bool
) -> None:
    texts = st.sampled_from(
        ["END", "안녕", "🙂", "a", "E", "N", " dog", "the", "<|im_end|>", "naïve"]
    )
    tokens = spelt(tokenizer, "".join(data.draw(st.lists(texts, min_size=1, max_size=12))))
    tokens += data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=4))
    stops = data.draw(
        st.lists(st.sampled_from(["END", "EN", "🙂", "녕a", "dog", "ND"]), max_size=3)
    )
    text, count, stop = naive(tokenizer, tokens, stops, include=include)
    reply = answered(tokenizer, tokens, stop=stops, burst=burst, no_stop_trim=include)
    assert reply["text"] == text
    assert reply["output_ids"] == tokens[:count]
    info = reply["meta_info"]
    assert info["completion_tokens"] == count
    wanted = {"type": "stop", "matched": stop} if stop else {"type": "length", "length": count}
    assert info["finish_reason"] == wanted


def test_half_a_character_at_the_end_is_shown_as_one_that_is_missing(
    tokenizer: HfTokenizer,
) -> None:
    whole = next(tokens for text in "🙂🚀🎉東京é" if len(tokens := spelt(tokenizer, text)) > 1)
    assert answered(tokenizer, [*spelt(tokenizer, "ab"), whole[0]])["text"] == "ab\ufffd"


def test_a_stop_token_ends_the_text_before_it_and_counts(tokenizer: HfTokenizer) -> None:
    tokens = spelt(tokenizer, "xyz")
    reply = answered(tokenizer, tokens, stop_token_ids=[tokens[1]])
    assert (reply["text"], reply["output_ids"]) == ("x", tokens[:2])
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": tokens[1]}
    kept = answered(tokenizer, tokens, stop_token_ids=[tokens[1]], no_stop_trim=True)
    assert kept["text"] == "xy"


def test_the_models_end_is_not_shown_unless_asked(tokenizer: HfTokenizer) -> None:
    end = tokenizer.special.eos
    assert end is not None
    tokens = [*spelt(tokenizer, "hi"), end, *spelt(tokenizer, "more")]
    assert answered(tokenizer, tokens, ends=(end,))["text"] == "hi"
    over = answered(tokenizer, tokens, ends=(end,), ignore_eos=True)
    assert over["text"] == "himore"
    shown = answered(tokenizer, tokens, ignore_eos=True, skip_special_tokens=False)
    assert shown["text"] == "hi<|im_end|>more"


def test_no_stop_string_is_looked_for_before_the_least_length(tokenizer: HfTokenizer) -> None:
    tokens = spelt(tokenizer, "x") * 6
    assert answered(tokenizer, tokens, stop="x", min_new_tokens=4)["output_ids"] == tokens[:5]


def test_nothing_is_said_when_only_the_prompt_was_wanted(tokenizer: HfTokenizer) -> None:
    reply = answered(tokenizer, [7], max_new_tokens=0, ends=(7,), return_prompt_token_ids=True)
    assert (reply["text"], reply["output_ids"], reply["prompt_token_ids"]) == ("", [], PROMPT)
    assert reply["meta_info"]["finish_reason"] == {"type": "length", "length": 0}


def test_without_a_tokenizer_tokens_go_in_and_come_out() -> None:
    reply = answered(None, [5, 6, 7])
    assert "text" not in reply
    assert reply["output_ids"] == [5, 6, 7]


def test_meta_info_says_all_there_is_to_say(tokenizer: HfTokenizer) -> None:
    with running(Desk(FakeEngine(), tokenizer)) as desk:
        info = desk.generate("The quick brown fox", {"max_new_tokens": 3, "seed": 5}, rid="mine")[
            "meta_info"
        ]
    prompt = len(tokenizer.encode("The quick brown fox", special=True))
    assert info.pop("e2e_latency") >= info.pop("first_token_latency") >= 0
    assert info == {
        "id": "mine",
        "finish_reason": {"type": "length", "length": 3},
        "prompt_tokens": prompt,
        "completion_tokens": 3,
        "cached_tokens": prompt // 2,
        "cached_tokens_details": {"device": prompt // 2, "host": 0, "storage": 0},
        "weight_version": "default",
        "num_retractions": 0,
        "seed": 5,
    }


@pytest.mark.parametrize("burst", [1, 3])
def test_log_probabilities_stand_beside_their_tokens(tokenizer: HfTokenizer, burst: int) -> None:
    words = {"top_logprobs_num": 2, "token_ids_logprob": [9, 4], "logprob_start_len": 0}
    with running(Desk(FakeEngine(burst=burst), tokenizer)) as desk:
        reply = desk.generate(
            input_ids=PROMPT, params={"max_new_tokens": 5}, return_logprob=True, **words
        )
    info, tokens = reply["meta_info"], [*PROMPT, *reply["output_ids"]]
    shown = [*info["input_token_logprobs"], *info["output_token_logprobs"]]
    tops = [*info["input_top_logprobs"], *info["output_top_logprobs"]]
    lists = [*info["input_token_ids_logprobs"], *info["output_token_ids_logprobs"]]
    assert shown[0] == (None, PROMPT[0], None)
    assert tops[0] is None
    assert info["output_token_logprobs_length"] == 5
    for at in range(1, len(tokens)):
        before = tokens[:at]
        right = [pytest.approx(score(before, one)) for one in (tokens[at], 0, 1, 9, 4)]
        assert shown[at] == (right[0], tokens[at], None)
        assert tops[at] == [(right[1], 0, None), (right[2], 1, None)]
        assert lists[at] == [(right[3], 9, None), (right[4], 4, None)]


def test_log_probabilities_end_where_a_stop_string_cuts(tokenizer: HfTokenizer) -> None:
    tokens = spelt(tokenizer, "abXcd")
    with running(Desk(FakeEngine(said(tokens), burst=5), tokenizer)) as desk:
        params = {"max_new_tokens": 5, "stop": "X"}
        words = {"return_logprob": True, "return_text_in_logprobs": True}
        info = desk.generate(input_ids=PROMPT, params=params, **words)["meta_info"]
    assert info["completion_tokens"] == info["output_token_logprobs_length"] == 3
    assert [row[2] for row in info["output_token_logprobs"]] == ["a", "b", "X"]


def test_a_stop_string_is_the_end_and_what_still_comes_is_not_looked_at(
    tokenizer: HfTokenizer,
) -> None:
    engine = FakeEngine(said(spelt(tokenizer, "aXbc")))
    desk = Desk(engine, tokenizer)
    (prepared,) = desk.asked(input_ids=PROMPT, params={"max_new_tokens": 9, "stop": "X"}).prepared
    ends: list[Any] = []
    (entry,) = desk.client.send([prepared], Watch(ends.append))
    engine.receive()
    for _ in range(4):  # the engine has not heard of the abort yet
        engine.step()
    assert (entry.reason, entry.matched, entry.text) == ("stop", "X", "a")
    assert len(desk.client.table) == 0
    engine.receive()
    assert [one for one in engine.seen if isinstance(one, Abort)] == [Abort(request=entry.id)]
    engine.step()
    assert ends == [entry], "one terminal event"
    assert entry.reason == "stop"


class Damaged:
    """A tokenizer whose table has a hole."""

    def __init__(self, whole: HfTokenizer, hole: int) -> None:
        self.size, self.leading, self.encode = whole.size, whole.leading, whole.encode
        self.visible: list[Any] = list(whole.visible)
        self.visible[hole] = None


def test_what_goes_wrong_with_one_text_ends_that_request_and_no_other(
    tokenizer: HfTokenizer,
) -> None:
    engine = FakeEngine(lambda message, _: 9 if message.prompt[0] == 4 else 8)
    damaged: Any = Damaged(tokenizer, 9)
    with running(Desk(engine, damaged)) as desk:
        good, bad = desk.generate(input_ids=[[2], [4]], params={"max_new_tokens": 3})
    assert good["output_ids"] == [8, 8, 8]
    assert bad["meta_info"]["finish_reason"]["err_type"] == "InternalError"
    assert sum(isinstance(one, Abort) for one in engine.seen) == 1


def test_what_ends_in_an_error_raises_it(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine()
    engine.broken = {3}
    with running(Desk(engine, tokenizer)) as desk:
        with pytest.raises(EngineError, match="not a number"):
            desk.generate(input_ids=[3, 4])
        with pytest.raises(EngineError, match="not a number"):
            list(desk.stream(input_ids=[3, 4]))


def test_of_several_the_ones_that_did_not_fail_are_kept(tokenizer: HfTokenizer) -> None:
    engine = FakeEngine()
    engine.broken = {3}
    with running(Desk(engine, tokenizer)) as desk:
        good, bad = desk.generate(input_ids=[[2, 4], [3, 4]], params={"max_new_tokens": 2})
        assert len(good["output_ids"]) == 2
        assert bad["meta_info"]["finish_reason"] == {
            "type": "abort",
            "message": "not a number",
            "status_code": 500,
            "err_type": "NumericalError",
        }
        with pytest.raises(EngineError, match="not a number"):
            desk.generate(input_ids=[[3, 4], [3, 5]])


def test_the_fake_engine_is_answered_by_its_oracle(tokenizer: HfTokenizer) -> None:
    with running(Desk(FakeEngine(burst=2), tokenizer)) as desk:
        reply = desk.generate(input_ids=PROMPT, params={"max_new_tokens": 6, "seed": 5})
        (prepared,) = desk.asked(input_ids=PROMPT, params={"max_new_tokens": 6, "seed": 5}).prepared
    message = prepared.message(RequestId(1), 0)
    output: list[int] = []
    for token in reply["output_ids"]:
        assert token == hashed(message, output)
        output.append(token)
