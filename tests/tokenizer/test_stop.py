import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.errors import OutOfRange
from espalier.tokenizer.stop import Cut, StopAutomaton, StopStrings

LETTERS = st.text(alphabet="abc", max_size=14)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Text before the match that ends first; of those that end together the longest."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            longest = max(matches, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(st.text(alphabet="abc", max_size=5), max_size=6), stops=STOPS)
def test_stops_are_found_whatever_the_split(pieces: list[str], stops: list[str]) -> None:
    search, shown, matched = StopStrings(stops), "", None
    text = "".join(pieces)
    before, wanted = naive(text, stops)
    for place, piece in enumerate(pieces):
        cut = search.feed(piece)
        shown += cut.text
        assert before.startswith(shown)  # nothing of a stop is ever shown
        if cut.matched:
            matched = cut.matched
            assert naive("".join(pieces[:place]), stops)[1] is None  # and found at once
            break
    else:
        shown += search.finish()
    assert (shown, matched) == (before, wanted)


@settings(max_examples=300, deadline=None)
@given(text=LETTERS, stops=STOPS)
def test_no_more_is_held_back_than_could_begin_a_stop(text: str, stops: list[str]) -> None:
    search = StopStrings(stops)
    cut = search.feed(*text)
    if cut.matched is None:
        held = text[len(cut.text) :]
        ends = [text[at:] for at in range(len(text))]
        could = [end for end in ends if any(stop.startswith(end) for stop in stops)]
        assert held == max(could, key=len, default="")
        assert cut.used == len(text)


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.text(alphabet="abc", max_size=4), max_size=6), stops=STOPS)
def test_the_pieces_that_a_stop_needed_are_counted(pieces: list[str], stops: list[str]) -> None:
    cut = StopStrings(stops).feed(*pieces)
    if cut.matched is not None:
        assert naive("".join(pieces[: cut.used]), stops)[1] == cut.matched
        assert naive("".join(pieces[: cut.used - 1]), stops)[1] is None


@settings(max_examples=100, deadline=None)
@given(text=LETTERS, stops=STOPS)
def test_an_included_stop_ends_the_text(text: str, stops: list[str]) -> None:
    before, wanted = naive(text, stops)
    cut = StopStrings(stops, include=True).feed(text)
    assert cut.matched == wanted
    if wanted is not None:
        assert cut.text == before + wanted


def test_a_stop_is_held_back_across_tokens() -> None:
    search = StopStrings(["END", "🙂🙂"])
    assert [search.feed(piece).text for piece in ("a E", "N", "X", "🙂", "E")] == [
        "a ",
        "",
        "ENX",
        "",
        "🙂",
    ]
    assert search.feed("N", "D", "after") == Cut("", "END", 2)


def test_of_two_stops_the_one_that_ends_first_wins() -> None:
    assert StopStrings(["END", "EN"]).feed("THE END") == Cut("THE ", "EN", 1)
    assert StopStrings(["ND", "END"]).feed("THE END") == Cut("THE ", "END", 1)


def test_samples_share_an_automaton() -> None:
    automaton = StopAutomaton(["stop"])
    first, second = StopStrings(automaton), StopStrings(automaton)
    first.feed("st")
    assert second.feed("op").text == "op"
    assert first.feed("op").matched == "stop"


def test_a_long_text_of_near_misses_takes_linear_work() -> None:
    search = StopStrings(["a" * 255 + "b"])
    cut = search.feed("a" * 200_000)
    assert len(cut.text) == 200_000 - 255
    assert search.feed("b").matched


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(OutOfRange, match="empty"):
        StopStrings([""])
