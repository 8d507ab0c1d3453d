"""The vocabulary as bytes, worked out from how a tokenizer.json says its tokens are decoded.

Three ways of spelling bytes are known: the byte-level alphabet (every byte is a printable character),
SentencePiece (U+2581 is a space, `<0x0A>` a byte), and words joined by spaces. The decoder's own
steps are read and applied to each token alone; what a step does to the text's start becomes a
`Leading` rule. A decoder with any other step is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from espalier.errors import NotBuilt
from espalier.tokenizer.base import NO_LEADING, Leading

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_BYTE = "<0x20>"
HINT = (
    "byte-level, SentencePiece (Replace, ByteFallback, Fuse, Strip, Metaspace) and words are known"
)


@dataclass(frozen=True)
class Decoding:
    """How one token becomes bytes, and what happens at the text's start."""

    bytes_of: Callable[[str], bytes]
    leading: Leading = NO_LEADING


def leading(vocabulary: Mapping[str, int], how: Decoding) -> Leading:
    """What happens at a text's start, knowing the tokens whose spaces are no marks."""
    if not how.leading.first_token:
        return how.leading
    spaced = (token for text, token in vocabulary.items() if " " in text or text == SPACE_BYTE)
    return replace(how.leading, verbatim=frozenset(spaced))


@dataclass
class _Steps:
    """The decoder's steps, gathered."""

    replaced: list[tuple[str, str]]
    byte_level: bool = False
    byte_fallback: bool = False
    strip: int = 0
    metaspace: bool = False
    joined: str | None = None  # words stand apart; a token that begins with this does not


def decoding(decoder: Mapping[str, Any] | None) -> Decoding:
    """What a tokenizer.json's `decoder` does, token by token."""
    steps = _Steps([])
    if decoder is None:
        steps.joined, steps.strip = "", 1
    else:
        for step in _flat(decoder):
            _take(step, steps)
    if steps.byte_level:
        return Decoding(_byte_level)
    if steps.joined is not None:
        return Decoding(_words(steps.joined), Leading(spaces=1))
    return Decoding(_sentencepiece(steps), Leading(steps.strip, first_token=steps.metaspace))


def table(vocabulary: Mapping[str, int], added: Mapping[str, int], how: Decoding) -> list[bytes]:
    """Bytes by token id; ids that no token has are empty."""
    size = max(vocabulary.values(), default=-1) + 1
    result = [b""] * size
    for text, token in vocabulary.items():
        result[token] = how.bytes_of(text)
    if how.bytes_of is _byte_level:
        for (
            text,
            token,
        ) in added.items():  # added as text, whatever its letters mean in the alphabet
            result[token] = text.encode()
    return result


def _flat(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] == "Sequence":
        for inner in decoder["decoders"]:
            yield from _flat(inner)
    else:
        yield decoder


def _take(step: Mapping[str, Any], steps: _Steps) -> None:
    match step:
        case {"type": "Fuse"}:
            pass
        case {"type": "ByteLevel"}:
            steps.byte_level = True
        case {"type": "ByteFallback"}:
            steps.byte_fallback = True
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            steps.replaced.append((old, new))
        case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
            steps.strip += start
        case {"type": "Metaspace", "replacement": str(mark)}:
            steps.replaced.append((mark, " "))
            scheme = step.get("prepend_scheme")
            always = scheme in {"always", "first"} if scheme else step.get("add_prefix_space", True)
            steps.metaspace = bool(always)
        case {"type": "WordPiece", "prefix": str(prefix)}:
            steps.joined = prefix
        case _:
            raise NotBuilt(f"this tokenizer's decoder has a step {dict(step)!r}", hint=HINT)


def _alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, others for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters = {chr(byte): byte for byte in printable}
    letters.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return letters


ALPHABET = _alphabet()


def _byte_level(text: str) -> bytes:
    try:
        return bytes([ALPHABET[letter] for letter in text])
    except KeyError:  # no byte-level token: the text itself
        return text.encode()


def _sentencepiece(steps: _Steps) -> Callable[[str], bytes]:
    def bytes_of(text: str) -> bytes:
        for old, new in steps.replaced:
            text = text.replace(old, new)
        byte = BYTE_TOKEN.fullmatch(text) if steps.byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else text.encode()

    return bytes_of


def _words(prefix: str) -> Callable[[str], bytes]:
    def bytes_of(text: str) -> bytes:
        if prefix and text.startswith(prefix):
            return text.removeprefix(prefix).encode()
        return f" {text}".encode()

    return bytes_of
