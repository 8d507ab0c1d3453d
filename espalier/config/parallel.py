"""How many devices, and how the model is spread over them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from espalier.config.base import Settings


class ParallelSettings(Settings, frozen=True, kw_only=True):
    """Sizes. What is above 1 and not built is refused by name."""

    tensor: Annotated[int, Meta(ge=1, le=64, description="Devices that share each layer.")] = 1
