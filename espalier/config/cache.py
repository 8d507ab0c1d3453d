"""Where keys and values are kept, and for how long."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from espalier.config.base import Settings


class CacheSettings(Settings, frozen=True, kw_only=True):
    """Memory, pages, and the prefixes that requests share."""

    memory_bytes: Annotated[
        int | None, Meta(ge=1, description="Memory the engine may use, weights included.")
    ] = None
    memory_fraction: Annotated[
        float | None,
        Meta(gt=0.0, le=1.0, description="The same, as a share of the whole device."),
    ] = None
    max_tokens: Annotated[
        int | None, Meta(ge=1, description="Tokens the cache holds; else as memory allows.")
    ] = None
    page_size: Annotated[int | None, Meta(ge=1, le=1024, description="Tokens in a page.")] = None
    sharing: Annotated[bool, Meta(description="Requests share common prefixes.")] = True
    max_cached_tokens: Annotated[
        int | None, Meta(ge=0, description="Most tokens kept that no request is using.")
    ] = None
    eviction: Annotated[str, Meta(description="Which prefix is forgotten first.")] = "lru"
    dtype: Annotated[str, Meta(description="Number format of keys and values.")] = "auto"
