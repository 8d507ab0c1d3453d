import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from espalier.errors import ConfigError
from espalier.tokenizer.hf import load
from tests.tokenizers import CORPUS, byte_level_bpe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Llama's first days: a SentencePiece model and no tokenizer.json."""
    made = tmp_path_factory.mktemp("sentencepiece-only")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(made / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (made / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",'
        ' "unk_token": "<unk>", "add_bos_token": true, "legacy": false}'
    )
    return made


def test_a_sentencepiece_model_is_converted_once(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ours = load(folder, cache=cache)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in ("The quick brown fox", "안녕 🙂 x", "def f():\n    pass"):
        assert ours.encode(text, special=False).tolist() == theirs.encode(text)
        assert ours.decode(ours.encode(text, special=True)) == text
    assert ours.encode("a", special=True)[0] == ours.special.bos == 1
    (made,) = cache.iterdir()
    before = (made / "tokenizer.json").stat().st_mtime_ns
    assert load(folder, cache=cache).size == ours.size
    assert (made / "tokenizer.json").stat().st_mtime_ns == before
    assert cache.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_converted_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json, only tokenizer\.model"):
        load(folder)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.model").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="cannot be converted") as failed:
        load(broken, cache=tmp_path / "cache")
    assert "sentencepiece" in failed.value.hint
    assert list((tmp_path / "cache").iterdir()) == []


def test_loading_and_rendering_import_neither_torch_nor_transformers(tmp_path: Path) -> None:
    byte_level_bpe(tmp_path)
    program = f"""
import sys
from espalier.tokenizer.chat import Chat, ChatTemplate
from espalier.tokenizer.hf import load
from espalier.tokenizer.stream import TextStream
tokenizer = load({str(tmp_path)!r})
tokens = ChatTemplate(tokenizer).tokens(Chat([{{"role": "user", "content": "hi"}}]))
TextStream(tokenizer, stops=["x"]).feed(tokens)
print(sorted({{"torch", "transformers", "sentencepiece"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
