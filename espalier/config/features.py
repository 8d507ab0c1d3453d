"""Capabilities with settings of their own, a struct each."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from espalier.config.base import Settings


class SpeculativeSettings(Settings, frozen=True, kw_only=True):
    """Drafts that the model verifies several at a time. The text never changes."""

    algorithm: Annotated[str | None, Meta(description="What proposes them: ngram.")] = None
    num_draft_tokens: Annotated[
        int, Meta(ge=1, le=64, description="Most drafts verified in one step.")
    ] = 4
