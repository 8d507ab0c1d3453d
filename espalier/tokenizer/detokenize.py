"""Tokens to text as they come, and never half a character.

A token is bytes, and a character may be spread over several of them. The bytes go through an
incremental UTF-8 decoder, which holds back the beginning of a character until it is whole. So any
split of the tokens gives the same text, and a token costs a table look-up instead of decoding the
text's end twice.

The space that SentencePiece puts before a text belongs to the text's start. An output that
continues a prompt keeps its first space; one that follows nothing but special tokens loses it.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from espalier.protocol.arrays import Ids
from espalier.tokenizer.base import Tokenizer

MAX_CHARACTER = 4  # bytes of UTF-8; a half character is at most three tokens


class Detokenizer:
    """One output's text. `prompt` is what it continues: the whole prompt, or empty for a new text."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int] | Ids = (), *, skip_special: bool = True
    ) -> None:
        self._table = tokenizer.visible if skip_special else tokenizer.vocabulary
        self._leading = tokenizer.leading
        self._spaces = self._leading.spaces  # still to be taken from the text's start
        self._at_start = self._leading.first_token or self._spaces > 0
        self._pending = b""  # the beginning of a character
        self._follow(prompt)

    def feed(self, ids: Sequence[int] | Ids) -> str:
        """The text these tokens add. Tokens beyond the vocabulary (a padded head's) add nothing."""
        table = self._table
        if self._at_start:
            data = b"".join([self._first(token) for token in ids])
        else:
            try:
                data = b"".join([table[token] for token in ids])
            except IndexError:
                data = b"".join([table[token] for token in ids if token < len(table)])
        return self._decoded(data)

    def finish(self) -> str:
        """What was held back: U+FFFD where the output ended inside a character, or nothing."""
        rest, self._pending = self._pending, b""
        return rest.decode(errors="replace")

    def _decoded(self, data: bytes) -> str:
        if self._pending:
            data = self._pending + data
        text, used = utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text

    def _first(self, token: int) -> bytes:
        """A token's bytes while the text's beginning is still to come."""
        data = self._table[token] if token < len(self._table) else b""
        if not self._at_start or not data:
            return data
        if self._leading.first_token:
            self._at_start = False
            return data if token in self._leading.verbatim else data.replace(b" ", b"")
        taken = min(self._spaces, len(data) - len(data.lstrip(b" ")))
        self._spaces -= taken
        rest = data[taken:]
        self._at_start = bool(self._spaces) and not rest
        return rest

    def _follow(self, prompt: Sequence[int] | Ids) -> None:
        """Take up where a prompt ends: its text is not ours, half of a last character is."""
        for token in prompt:
            if not self._at_start:
                break
            self._first(token)
        last = prompt[-MAX_CHARACTER:]
        self._decoded(b"".join(self._table[at] for at in last if at < len(self._table)))
