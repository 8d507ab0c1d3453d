"""What a page of the cache holds, as data: for planning memory, and for whoever moves pages.

Layers that keep the same thing for a token form a group; each group has its own pages. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

GroupKind: TypeAlias = Literal["full"]

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLayout:
    """Layers that keep keys and values of the same shape for every token, as one rank holds them."""

    layers: int
    key_value_heads: int
    head_size: int
    dtype: str
    kind: GroupKind = "full"

    @property
    def bytes_per_token(self) -> int:
        keys = self.key_value_heads * self.head_size * ITEM_BYTES[self.dtype]
        return 2 * self.layers * keys


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheLayout:
    groups: tuple[GroupLayout, ...]
    page_size: int  # tokens

    @property
    def bytes_per_token(self) -> int:
        return sum(group.bytes_per_token for group in self.groups)

    @property
    def bytes_per_page(self) -> int:
        return self.page_size * self.bytes_per_token

    def pages(self, tokens: int) -> int:
        """How many pages so many tokens of one request take up."""
        return -(-tokens // self.page_size)
