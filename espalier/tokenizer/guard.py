"""Encoding in which only what we say becomes a control token, whatever the text spells.

A second tokenizer shares the first one's model, but its control tokens have secret names: a random
word of this process, which no client can type. Where a template put a control token its secret name
stands in the text, and the whole text is encoded at once; so spaces, prefixes and normalization fall
out exactly as they would for the plain names, and `<|im_end|>` typed by a client is letters.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from espalier.errors import NotBuilt
from espalier.protocol.arrays import Ids


class GuardedEncoder:
    """Encodes with a given set of control tokens. Safe to use from several threads."""

    def __init__(self, backend: Backend, control: AbstractSet[str], *, unknown: str | None) -> None:
        word = secrets.token_hex(8)  # 64 bits; lower case and digits survive every normalizer
        self._names = {text: f"{word}{place:06d}" for place, text in enumerate(sorted(control))}
        added = backend.get_added_tokens_decoder()
        self._by_id = {
            token: self._names[item.content]
            for token, item in added.items()
            if item.content in control
        }
        self._backend, self._ids = _sharing(backend, added, self._names)
        watched = set(control) - {unknown}  # plain text may well be unknown to the vocabulary
        leaked = _leaks(self, watched, added)
        if leaked:  # the model itself has them, and would find them in plain text
            self._backend, self._ids = _renamed(backend, added, self._names)
            leaked = _leaks(self, watched, added)
        if leaked:
            raise NotBuilt(
                f"this tokenizer makes the control token {min(leaked)!r} out of plain text",
                hint="use a checkpoint whose control tokens are added tokens",
            )

    def encode(self, pieces: Sequence[str | int]) -> Ids:
        """Tokens of one text; its control tokens are the pieces given as numbers."""
        text = "".join(piece if isinstance(piece, str) else self._by_id[piece] for piece in pieces)
        found = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return self._ids[np.asarray(found, np.int32)]


def _sharing(
    backend: Backend, added: Mapping[int, AddedToken], names: Mapping[str, str]
) -> tuple[Backend, Ids]:
    """The same model, normalizer and pre-tokenizer, with added tokens under their secret names."""
    guarded = Backend(backend.model)
    if backend.normalizer is not None:
        guarded.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        guarded.pre_tokenizer = backend.pre_tokenizer
    guarded.add_tokens([_named(item, names) for _, item in sorted(added.items())])
    return guarded, _back(guarded, added, names)


def _renamed(
    backend: Backend, added: Mapping[int, AddedToken], names: Mapping[str, str]
) -> tuple[Backend, Ids]:
    """A copy whose model, too, knows the control tokens by their secret names only."""
    content: dict[str, Any] = msgspec.json.decode(backend.to_str())
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(text, text): token for text, token in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in model["vocab"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _makes(pair, names)]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    content["added_tokens"], content["post_processor"] = [], None
    guarded = Backend.from_buffer(msgspec.json.encode(content))
    guarded.add_tokens([_named(item, names) for _, item in sorted(added.items())])
    return guarded, _back(guarded, added, names)


def _makes(pair: Any, names: Mapping[str, str]) -> bool:
    """Whether a merge gives, or needs, a control token."""
    left, right = pair if isinstance(pair, list) else pair.split(" ", 1)
    return not {left, right, left + right}.isdisjoint(names)


def _named(item: AddedToken, names: Mapping[str, str]) -> AddedToken:
    return AddedToken(
        names.get(item.content, item.content),
        single_word=item.single_word,
        lstrip=item.lstrip,
        rstrip=item.rstrip,
        normalized=item.normalized,
        special=False,
    )


def _back(guarded: Backend, added: Mapping[int, AddedToken], names: Mapping[str, str]) -> Ids:
    """The real id of each of the second tokenizer's ids."""
    own = guarded.get_added_tokens_decoder()
    real = {names.get(item.content, item.content): token for token, item in added.items()}
    size = max([guarded.get_vocab_size(with_added_tokens=False), *(token + 1 for token in own)])
    back = np.arange(size, dtype=np.int32)
    for token, item in own.items():
        back[token] = real[item.content]
    return back


def _leaks(
    guarded: GuardedEncoder, control: AbstractSet[str], added: Mapping[int, AddedToken]
) -> list[str]:
    """Control tokens that their own spelling still gives, as plain text."""
    ids = {item.content: token for token, item in added.items() if item.content in control}
    return [text for text, token in ids.items() if token in guarded.encode([text])]
