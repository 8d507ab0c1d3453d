from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier.tokenizer.stop import Cut
from espalier.tokenizer.stream import TextStream
from tests.tokenizer.conftest import Pair

QUICK = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(
    text=st.text(alphabet=st.sampled_from("ab c🙂안"), max_size=16),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    stops=st.lists(st.sampled_from(["a b", "🙂", "안 ", "cc", "b c🙂"]), max_size=3, unique=True),
)
def test_steps_of_any_size_give_the_same_text_and_the_same_tokens(
    pair: Pair, text: str, sizes: list[int], stops: list[str]
) -> None:
    tokens = pair.ours.encode(text, special=False).tolist()
    wanted, kept = _one_by_one(pair, tokens, stops)
    stream, shown, used, at = TextStream(pair.ours, stops=stops), "", 0, 0
    matched = None
    while at < len(tokens) and matched is None:
        step = tokens[at : at + sizes[at % len(sizes)]]
        cut = stream.feed(step)
        shown, used, at, matched = shown + cut.text, used + cut.used, at + len(step), cut.matched
    if matched is None:
        cut = stream.finish()
        shown, matched = shown + cut.text, cut.matched
    assert (shown, used) == (wanted, kept)
    whole = pair.ours.decode(tokens)
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    if not ends:
        assert shown == whole
    else:
        assert matched in stops
        assert whole[: min(ends)] == shown + matched


def _one_by_one(pair: Pair, tokens: list[int], stops: list[str]) -> tuple[str, int]:
    stream, shown = TextStream(pair.ours, stops=stops), ""
    for used, token in enumerate(tokens, 1):
        cut = stream.feed([token])
        shown += cut.text
        if cut.matched is not None:
            return shown, used
    return shown + stream.finish().text, len(tokens)


def test_tokens_after_a_stop_are_cut_off(pairs: dict[str, Pair]) -> None:
    ours = pairs["byte_level"].ours
    letters = [ours.vocabulary.index(letter.encode()) for letter in "xENDyz"]
    stream = TextStream(ours, stops=["END"])
    assert stream.feed(letters) == Cut("x", "END", 4)


def test_stops_before_the_least_length_are_text(pairs: dict[str, Pair]) -> None:
    ours = pairs["byte_level"].ours
    letters = [ours.vocabulary.index(letter.encode()) for letter in "a.b.c.d"]
    stream = TextStream(ours, stops=["."], min_tokens=3)
    assert stream.feed(letters) == Cut("a.b", ".", 4)


def test_an_output_that_ends_inside_a_character_may_still_match(pairs: dict[str, Pair]) -> None:
    ours = pairs["sentencepiece"].ours
    half = ours.token_id("<0xF0>")
    stream = TextStream(ours, stops=["\ufffd"])
    assert stream.feed([half]).text == ""
    assert stream.finish().matched == "\ufffd"
