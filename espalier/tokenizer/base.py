"""What the house asks of a tokenizer: text to tokens, tokens to text, and the vocabulary as bytes.

Nothing here knows a file format; `hf.py` is the implementation behind it. Two ways lead from text to
tokens. `encode` is for an operator's or a raw prompt: strings that spell control tokens become them.
`encode_plain` is for what a client wrote inside a conversation: nothing in it becomes control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from espalier.errors import OutOfRange
from espalier.protocol.arrays import Ids

LONG_TEXT = 2048  # characters; encoding more than this belongs in a thread, and lets go of the GIL


@dataclass(frozen=True)
class SpecialTokens:
    """What a checkpoint says about its tokens that are not text."""

    ids: frozenset[int]  # left out of what a user reads
    bos: int | None = None
    eos: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)  # bos_token: "<s>", as templates see it


@dataclass(frozen=True)
class Leading:
    """What happens to a space at the very beginning of a decoded text.

    SentencePiece puts a space before a text when it encodes, and takes it away when it decodes.
    It takes so many `spaces` from the text's start, or all spaces of the `first_token`, unless that
    is one of the `verbatim` ones, whose spaces are their own (a byte, a text added as it is).
    """

    spaces: int = 0
    first_token: bool = False
    verbatim: frozenset[int] = frozenset()


NO_LEADING = Leading()


class PlainEncoder(Protocol):
    """Encodes text in which nothing but its numbers can be control tokens."""

    def encode(self, pieces: Sequence[str | int]) -> Ids:
        """Tokens of the pieces as one text; the numbers are control tokens where they stand."""
        ...


class Tokenizer(Protocol):
    """A model's vocabulary, both ways. Safe to use from several threads."""

    @property
    def size(self) -> int:
        """One more than the highest token, those added to the vocabulary included."""
        ...

    @property
    def special(self) -> SpecialTokens: ...

    @property
    def template(self) -> str | None:
        """The source of the checkpoint's chat template, if it has one."""
        ...

    @property
    def templates(self) -> Mapping[str, str]:
        """All its chat templates by name; the usual one is `default`."""
        ...

    @property
    def added(self) -> Mapping[str, int]:
        """Tokens added to the vocabulary, by their text; the special ones are among them."""
        ...

    @property
    def leading(self) -> Leading: ...

    @property
    def vocabulary(self) -> Sequence[bytes]:
        """The bytes each token stands for; special tokens are their names."""
        ...

    @property
    def visible(self) -> Sequence[bytes]:
        """The same with special tokens empty: what a user reads."""
        ...

    def encode(self, text: str, *, special: bool) -> Ids:
        """Tokens of a prompt; `special` adds what the model begins (and ends) a text with."""
        ...

    def encode_plain(self, text: str) -> Ids:
        """Tokens of a client's text, in which no control token can appear."""
        ...

    def guarded(self, control: AbstractSet[str]) -> PlainEncoder:
        """An encoder that knows these control tokens by id only. Costly to make: keep it."""
        ...

    def decode(self, tokens: Sequence[int] | Ids, *, skip_special: bool = True) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...

    def token_text(self, token: int) -> str:
        """A token as a person reads it, for log probabilities; half characters are U+FFFD."""
        ...

    def token_id(self, text: str) -> int | None:
        """The token spelled exactly so in the vocabulary."""
        ...


def check_text(text: str, field_name: str) -> None:
    """Refuse a string that no UTF-8 can spell: half of a surrogate pair, as JSON lets one write it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        wanted = f"U+{code:04X} at character {error.start} is half a surrogate pair, not text"
        shown = text[max(0, error.start - 8) : error.start + 8]
        raise OutOfRange(field_name, shown, wanted, hint="send valid Unicode") from None
