"""Tokenizers of the Hugging Face kind: a tokenizer.json, run by the `tokenizers` library.

Encoding is the library's; it lets go of the GIL in `encode_batch_fast` only, so that is what is
called, and long texts belong in a thread (`base.LONG_TEXT`). Decoding is ours, from the byte table.
A folder without tokenizer.json goes through `exotic.py` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as Backend

from espalier.errors import CheckpointError
from espalier.protocol.arrays import Ids, ids
from espalier.tokenizer.base import Leading, SpecialTokens
from espalier.tokenizer.control import control_texts
from espalier.tokenizer.detokenize import Detokenizer
from espalier.tokenizer.exotic import converted
from espalier.tokenizer.files import DEFAULT, TokenizerFacts, read_facts
from espalier.tokenizer.guard import GuardedEncoder
from espalier.tokenizer.table import Decoding, decoding, leading, table
from espalier.tokenizer.template import literal_text

FILE = "tokenizer.json"


class _Layout(msgspec.Struct):
    """The part of tokenizer.json that we read ourselves."""

    decoder: dict[str, Any] | None = None


def load(
    folder: Path | str, *, cache: Path | None = None, template: str | None = None
) -> HfTokenizer:
    """The tokenizer in a checkpoint's folder; `template` is the operator's, in place of its own.

    `cache` is a private folder where a tokenizer of another format is kept once converted; without
    it such a tokenizer is refused.
    """
    folder = Path(folder)
    source = folder if (folder / FILE).is_file() else converted(folder, cache)
    facts = read_facts(folder)
    if source != folder:
        facts = facts.completed(read_facts(source))
    if template is not None:
        facts = replace(facts, templates={DEFAULT: template})
    data = (source / FILE).read_bytes()
    try:
        backend = Backend.from_buffer(data)
        layout = msgspec.json.decode(data, type=_Layout)
    except Exception as error:
        raise CheckpointError(f"{source / FILE} cannot be read: {error}") from error
    return HfTokenizer(backend, decoding(layout.decoder), facts)


class HfTokenizer:
    """`base.Tokenizer` over a tokenizer.json."""

    def __init__(self, backend: Backend, how: Decoding, facts: TokenizerFacts) -> None:
        backend.no_truncation()  # training's settings, which some files carry
        backend.no_padding()
        # Called special by the checkpoint, though tokenizer.json has them as plain vocabulary.
        known = [text for text in sorted(facts.special) if backend.token_to_id(text) is not None]
        backend.add_special_tokens(known)
        self._backend = backend
        self._how = how
        self._facts = facts
        self.added = {
            item.content: token for token, item in backend.get_added_tokens_decoder().items()
        }
        self.special = _special(backend, facts)
        self._before, self._after = _frame(backend, facts, self.special)
        self._vocabulary = backend.get_vocab(with_added_tokens=True)

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    @cached_property
    def leading(self) -> Leading:
        return leading(self._vocabulary, self._how)

    @property
    def templates(self) -> Mapping[str, str]:
        return self._facts.templates

    @property
    def template(self) -> str | None:
        return self._facts.templates.get(DEFAULT)

    @cached_property
    def vocabulary(self) -> list[bytes]:
        return table(self._vocabulary, self.added, self._how)

    @cached_property
    def visible(self) -> list[bytes]:
        special = self.special.ids
        return [b"" if token in special else data for token, data in enumerate(self.vocabulary)]

    @cached_property
    def _plain(self) -> GuardedEncoder:
        literals = "\0".join(literal_text(source) for source in self.templates.values())
        return self.guarded(control_texts(self, literals))

    def guarded(self, control: AbstractSet[str]) -> GuardedEncoder:
        unknown = self._facts.names.get("unk_token")
        return GuardedEncoder(self._backend, control, unknown=unknown)

    def encode(self, text: str, *, special: bool) -> Ids:
        found = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids([*self._before, *found, *self._after] if special else found)

    def encode_plain(self, text: str) -> Ids:
        return self._plain.encode([text])

    def decode(self, tokens: Sequence[int] | Ids, *, skip_special: bool = True) -> str:
        whole = Detokenizer(self, skip_special=skip_special)
        return whole.feed(tokens) + whole.finish()

    def token_bytes(self, token: int) -> bytes:
        return self.vocabulary[token] if 0 <= token < self.size else b""

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode(errors="replace")

    def token_id(self, text: str) -> int | None:
        return self._backend.token_to_id(text)


def _special(backend: Backend, facts: TokenizerFacts) -> SpecialTokens:
    added = backend.get_added_tokens_decoder()
    marked = {token for token, item in added.items() if item.special}
    declared = {token for token, item in added.items() if item.content in facts.special}
    named = {name: backend.token_to_id(text) for name, text in facts.names.items()}
    return SpecialTokens(
        ids=frozenset(marked | declared),
        bos=named.get("bos_token"),
        eos=named.get("eos_token"),
        names=facts.names,
    )


def _frame(
    backend: Backend, facts: TokenizerFacts, special: SpecialTokens
) -> tuple[list[int], list[int]]:
    """What stands before and after a text: tokenizer.json's word, unless the config has another."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    start = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
    before, after = full[:start], full[start + len(bare) :]
    if facts.add_bos is not None and special.bos is not None:
        before = [token for token in before if token != special.bos]
        before = [special.bos, *before] if facts.add_bos else before
    if facts.add_eos is not None and special.eos is not None:
        after = [token for token in after if token != special.eos]
        after = [*after, special.eos] if facts.add_eos else after
    return before, after
