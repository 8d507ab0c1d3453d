"""Where keys and values are kept, and for how long."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from espalier.config.base import Settings


class CacheSettings(Settings, frozen=True, kw_only=True):
    """Memory, pages, and the prefixes that requests share."""

    memory_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Memory the engine may use, weights included, as 6GB."),
    ] = None
    memory_fraction: Annotated[
        Annotated[float, Meta(gt=0.0, le=1.0)] | None,
        Meta(description="The same as a share of the whole device, in place of bytes."),
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Tokens the cache holds; else as memory allows."),
    ] = None
    page_size: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None, Meta(description="Tokens in a page.")
    ] = None
    sharing: Annotated[bool, Meta(description="Requests share common prefixes.")] = True
    max_cached_tokens: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Most tokens kept that no request is using."),
    ] = None
    eviction: Annotated[str, Meta(description="Which prefix is forgotten first.")] = "lru"
    dtype: Annotated[str, Meta(description="Number format of keys and values.")] = "auto"
