from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier.tokenizer.detokenize import Detokenizer
from tests.tokenizer.conftest import Pair

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(alphabet=st.sampled_from(" \naetx<é안녕🙂👩‍👧東"), max_size=20)


def _in_pieces(detokenizer: Detokenizer, tokens: list[int], cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(tokens) + 1) for cut in cuts), len(tokens)]
    pieces = [detokenizer.feed(tokens[a:b]) for a, b in pairwise(edges)]
    return [*pieces, detokenizer.finish()]


@QUICK
@given(text=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=8), skip=st.booleans())
def test_any_split_of_the_tokens_gives_the_text(
    pair: Pair, text: str, cuts: list[int], skip: bool
) -> None:
    tokens = pair.theirs.encode(text).ids
    pieces = _in_pieces(Detokenizer(pair.ours, skip_special=skip), tokens, cuts)
    assert "".join(pieces) == pair.theirs.decode(tokens, skip_special_tokens=skip)
    assert not any("\ufffd" in piece for piece in pieces)


@QUICK
@given(data=st.data(), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_any_split_of_any_tokens_gives_one_text(
    pair: Pair, data: st.DataObject, cuts: list[int]
) -> None:
    tokens = data.draw(st.lists(st.integers(0, pair.ours.size + 2), max_size=20))
    pieces = _in_pieces(Detokenizer(pair.ours), tokens, cuts)
    text = "".join(pieces)
    assert text == pair.ours.decode(tokens)
    text.encode()
    wanted = pair.theirs.decode([token for token in tokens if token < pair.ours.size])
    if "\ufffd" not in wanted:
        assert text == wanted


@QUICK
@given(before=TEXTS, after=TEXTS)
def test_an_output_adds_what_the_whole_has_beyond_the_prompt(
    pair: Pair, before: str, after: str
) -> None:
    prompt = pair.theirs.encode(before).ids
    output = pair.theirs.encode(after, add_special_tokens=False).ids
    detokenizer = Detokenizer(pair.ours, prompt)
    added = detokenizer.feed(output) + detokenizer.finish()
    assert pair.theirs.decode(prompt) + added == pair.theirs.decode([*prompt, *output])


def test_a_continued_prompt_keeps_the_outputs_first_space(pairs: dict[str, Pair]) -> None:
    ours = pairs["sentencepiece"].ours
    the = ours.token_id("▁the")
    prompt = ours.encode("all", special=True)
    assert Detokenizer(ours, prompt).feed([the, the]) == " the the"
    assert Detokenizer(ours, [ours.special.bos]).feed([the, the]) == "the the"
    assert Detokenizer(ours).feed([the, the]) == "the the"
    assert Detokenizer(ours, [ours.special.bos], skip_special=False).feed([the]) == " the"


def test_half_a_character_waits_for_its_other_half(pairs: dict[str, Pair]) -> None:
    ours = pairs["sentencepiece"].ours
    smile = [ours.token_id(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    detokenizer = Detokenizer(ours)
    assert [detokenizer.feed([token]) for token in smile] == ["", "", "", "🙂"]
    assert detokenizer.feed(smile[:2]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_invalid_bytes_are_replaced_as_soon_as_they_are_known(pairs: dict[str, Pair]) -> None:
    ours = pairs["sentencepiece"].ours
    detokenizer = Detokenizer(ours)
    assert detokenizer.feed([ours.token_id("<0xFF>")]) == "\ufffd"
    assert detokenizer.feed([ours.token_id("<0xE2>")]) == ""
    assert detokenizer.feed([ours.token_id("a")]) == "\ufffda"


def test_a_character_begun_in_the_prompt_is_ended_in_the_output(pairs: dict[str, Pair]) -> None:
    ours = pairs["byte_level"].ours
    tokens = [ours.vocabulary.index(bytes([byte])) for byte in "é".encode()]
    detokenizer = Detokenizer(ours, [ours.vocabulary.index(b"a"), tokens[0]])
    assert detokenizer.feed(tokens[1:]) == "é"


@pytest.mark.parametrize("skip", [True, False])
def test_special_tokens_are_shown_on_request_only(pair: Pair, skip: bool) -> None:
    eos = pair.ours.special.eos
    shown = Detokenizer(pair.ours, skip_special=skip).feed([eos])
    assert shown == ("" if skip else pair.ours.token_text(eos))
