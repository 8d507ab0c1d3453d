"""Which tokens steer the model, and must never come out of what a client typed."""

from __future__ import annotations

from espalier.tokenizer.base import Tokenizer

# Some files do not call these special, and yet they are what turns are made of.
SHAPES = (("<|", "|>"), ("<\uff5c", "\uff5c>"))


def control_texts(tokenizer: Tokenizer, literals: str) -> frozenset[str]:
    """The control tokens' texts; `literals` is all that the chat template itself writes.

    An added token may as well be plain text (Gemma's runs of newlines), so of those not called
    special only what the template spells, or what has a mark's shape, is control.
    """
    return frozenset(
        text
        for text, token in tokenizer.added.items()
        if token in tokenizer.special.ids
        or (not text.isspace() and text in literals)
        or any(text.startswith(left) and text.endswith(right) for left, right in SHAPES)
    )
