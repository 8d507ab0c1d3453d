"""Small tokenizers of the three kinds there are, made here and now, for checkpoints of tests.

Each function writes tokenizer.json and tokenizer_config.json (with a chat template) into a folder
and gives the vocabulary's size, added tokens included. They are trained once a process.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "A user asks; the assistant answers. What is the capital of France? It is Paris.",
    "def add(left, right):\n    return left + right\n\n\nif __name__ == '__main__':\n    print(add(1, 2))",
    '{"name": "get_weather", "arguments": {"city": "Seoul", "days": 3, "unit": "celsius"}}',
    "안녕하세요, 세계! 오늘 날씨는 어떻습니까? 한국어 문장도 잘 나누어야 합니다.",
    "Emoji are characters too: 🙂🚀🎉 and 👩‍👩‍👧‍👦, naïve café, Größe, 東京.",
    "Numbers 0 1 2 3 4 5 6 7 8 9 10 11 128 1024 3.14159, <tags> [brackets] |bars| \\slashes\\.",
]
LETTERS = [chr(code) for code in range(0x20, 0x7F)]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% elif loop.first %}{{ message['content'] }}"
    "{% else %}{{ raise_exception('system messages come first') }}{% endif %}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\\n'"
    " + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def byte_level_bpe(folder: Path) -> int:
    """As GPT-2, Llama 3 and Qwen: every byte has a letter; ChatML."""
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _write(folder, _byte_level_bpe(), {**names, "chat_template": CHATML})


def sentencepiece_bpe(folder: Path) -> int:
    """As Llama 2 and Mistral: U+2581 for spaces, one before the text, bytes as a last resort."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    return _write(folder, _sentencepiece_bpe(), {**names, "chat_template": INST})


def unigram(folder: Path) -> int:
    """As T5 and its like, with byte fallback: likeliest pieces, Metaspace."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _write(folder, _unigram(), {**names, "chat_template": TURNS})


def _write(folder: Path, content: str, config: dict[str, Any]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer.from_str(content).get_vocab_size()


@cache
def _byte_level_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(
        [AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)]
    )
    return tokenizer.to_str()


@cache
def _sentencepiece_bpe() -> str:
    """Trained without byte tokens, which are then put in front as SentencePiece has them."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=220, initial_alphabet=LETTERS, limit_alphabet=110, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    content = json.loads(trained.to_str())
    pieces = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    content["model"] |= {
        "vocab": {piece: place for place, piece in enumerate([*first, *pieces])},
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_token": "<unk>",
    }
    content["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer.to_str()


@cache
def _unigram() -> str:
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=[], unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    pieces = [
        [piece, score]
        for piece, score in json.loads(trained.to_str())["model"]["vocab"]
        if piece != "<unk>" and (piece.isascii() or piece[0] == "▁" or ord(piece[0]) >= 0xAC00)
    ]  # the rest is left to bytes
    first = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]]
    first += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    known = {piece for piece, _ in [*first, *pieces]}
    letters = [[letter, -12.0] for letter in [*LETTERS, "▁"] if letter not in known]
    vocab = [(piece, score) for piece, score in [*first, *pieces, *letters] if piece != " "]
    tokenizer = Tokenizer(models.Unigram(vocab, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>"])
    return tokenizer.to_str()
