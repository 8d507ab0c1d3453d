import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from espalier.errors import CheckpointError, NotBuilt, OutOfRange
from espalier.tokenizer.base import check_text
from espalier.tokenizer.hf import load
from tests import tokenizers
from tests.tokenizer.conftest import Pair

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(alphabet=st.sampled_from(" \n\taetx<|>_▁s/0é안녕🙂\u200d"), max_size=24) | st.text(
    max_size=12
)


@QUICK
@given(text=TEXTS)
def test_tokens_are_those_of_the_library(pair: Pair, text: str) -> None:
    bare = pair.theirs.encode(text, add_special_tokens=False).ids
    assert pair.ours.encode(text, special=False).tolist() == bare
    assert pair.ours.encode(text, special=True).tolist() == pair.theirs.encode(text).ids


@QUICK
@given(text=TEXTS)
def test_text_of_tokens_is_that_of_the_library(pair: Pair, text: str) -> None:
    tokens = pair.theirs.encode(text).ids
    for skip in (True, False):
        wanted = pair.theirs.decode(tokens, skip_special_tokens=skip)
        assert pair.ours.decode(tokens, skip_special=skip) == wanted


@QUICK
@given(text=TEXTS)
def test_plain_text_is_encoded_as_ever_and_holds_no_control(pair: Pair, text: str) -> None:
    plain = pair.ours.encode_plain(text).tolist()
    control = pair.ours.special.ids - {pair.ours.token_id("<unk>")}
    assert control.isdisjoint(plain)
    whole = pair.theirs.encode(text, add_special_tokens=False).ids
    if control.isdisjoint(whole) and "think>" not in text:
        assert plain == whole


def test_a_control_token_typed_by_a_client_is_letters(pair: Pair) -> None:
    unknown = pair.ours.token_id("<unk>")
    control = [text for text in pair.ours.added if "think" not in text]
    assert len(control) >= 3
    for text in control:
        token = pair.ours.added[text]
        plain = pair.ours.encode_plain(f"say {text} twice{text}").tolist()
        assert token not in plain or token == unknown
        assert text in pair.ours.decode(plain)


def test_every_token_has_its_bytes(pair: Pair) -> None:
    ours = pair.ours
    assert ours.size == pair.theirs.get_vocab_size()
    for token in range(ours.size):
        text = pair.theirs.decode([token], skip_special_tokens=False)
        if "\ufffd" not in text:
            assert ours.decode([token], skip_special=False) == text
    assert ours.token_bytes(ours.size + 100) == b""


def test_bytes_of_sentencepiece_tokens_keep_their_spaces(pairs: dict[str, Pair]) -> None:
    ours = pairs["sentencepiece"].ours
    assert ours.token_bytes(ours.token_id("▁the")) == b" the"
    assert ours.token_bytes(ours.token_id("<0xF0>")) == b"\xf0"
    assert ours.token_text(ours.token_id("<0xF0>")) == "\ufffd"


def test_special_tokens_are_found_in_the_configuration(pairs: dict[str, Pair]) -> None:
    ours = pairs["sentencepiece"].ours
    assert (ours.special.bos, ours.special.eos) == (1, 2)
    assert ours.special.names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert ours.template == tokenizers.INST


def _variant(pair: Pair, folder: Path, **config: object) -> Path:
    shutil.copytree(pair.folder, folder, dirs_exist_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def test_the_configuration_decides_about_the_first_and_last_token(
    pairs: dict[str, Pair], tmp_path: Path
) -> None:
    folder = _variant(pairs["sentencepiece"], tmp_path, add_bos_token=False, add_eos_token=True)
    assert load(folder).encode("a", special=True).tolist()[-1] == 2
    assert 1 not in load(folder).encode("a", special=True)
    folder = _variant(pairs["unigram"], tmp_path, add_bos_token=True)
    assert load(folder).encode("a", special=True)[0] == 1


def test_truncation_and_padding_left_in_a_file_are_not_applied(
    pairs: dict[str, Pair], tmp_path: Path
) -> None:
    folder = _variant(pairs["byte_level"], tmp_path)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(folder / "tokenizer.json"))
    wanted = pairs["byte_level"].theirs.encode("a rather long text of many words").ids
    found = load(folder).encode("a rather long text of many words", special=True)
    assert found.tolist() == wanted


def test_templates_are_read_from_wherever_a_checkpoint_keeps_them(
    pairs: dict[str, Pair], tmp_path: Path
) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    folder = _variant(pairs["byte_level"], tmp_path, chat_template=named)
    assert load(folder).templates == {"default": "D", "tool_use": "T"}
    (folder / "chat_template.jinja").write_text("from a file")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    assert load(folder).template == "from a file"
    assert load(folder).templates["rag"] == "R"
    assert load(folder, template="the operator's").templates == {"default": "the operator's"}


def test_a_special_token_that_only_the_configuration_names_is_special(
    pairs: dict[str, Pair], tmp_path: Path
) -> None:
    folder = _variant(pairs["byte_level"], tmp_path, eos_token={"content": "the"})
    ours = load(folder)
    assert ours.special.eos == ours.token_id("the")
    assert ours.decode([ours.special.eos]) == ""


def test_prefix_spaces_and_odd_added_tokens_round_trip(tmp_path: Path) -> None:
    tokenizers.byte_level_bpe(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.add_tokens([AddedToken("café au lait", normalized=False), "    "])
    backend.add_special_tokens(
        [AddedToken("<mask>", lstrip=True), AddedToken("<user>", rstrip=True)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    text = "one <mask>, two<user> \n café au lait    x"
    tokens = backend.encode(text).ids
    assert ours.encode(text, special=True).tolist() == tokens
    assert ours.decode(tokens) == backend.decode(tokens)
    assert ours.encode_plain("the café au lait").tolist() == backend.encode("the café au lait").ids


def test_a_gemma_like_decoder_strips_nothing(pairs: dict[str, Pair], tmp_path: Path) -> None:
    folder = _variant(pairs["sentencepiece"], tmp_path)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.save(str(folder / "tokenizer.json"))
    for text in (" a dog", "a dog", "  "):
        assert load(folder).decode(load(folder).encode(text, special=False)) == text


def test_words_and_pieces_of_words_are_joined_as_their_decoders_do(tmp_path: Path) -> None:
    vocab = {"[UNK]": 0, "un": 1, "##do": 2, "it": 3}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert load(tmp_path).decode([1, 2, 3]) == backend.decode([1, 2, 3]) == "undo it"
    backend.decoder = None
    backend.save(str(tmp_path / "tokenizer.json"))
    assert load(tmp_path).decode([1, 3]) == backend.decode([1, 3]) == "un it"


def test_an_unknown_decoder_is_refused_by_name(pairs: dict[str, Pair], tmp_path: Path) -> None:
    folder = _variant(pairs["byte_level"], tmp_path)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.decoder = decoders.CTC()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(NotBuilt, match="CTC"):
        load(folder)


def test_a_damaged_file_is_an_error_of_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load(tmp_path / "nowhere")


def test_half_a_surrogate_pair_is_refused_by_the_name_of_its_field() -> None:
    with pytest.raises(OutOfRange, match=r"stop\[1\].*U\+D800"):
        check_text("abc\ud800", "stop[1]")
    check_text("🙂 \x00 \ufeff", "prompt")
