"""What computes, and on what."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from espalier.config.base import Settings


class KernelSettings(Settings, frozen=True, kw_only=True):
    """Device, implementations, threads."""

    device: Annotated[str, Meta(description="cpu, cuda, or auto.")] = "auto"
    attention: Annotated[str, Meta(description="Attention backend.")] = "auto"
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None, Meta(description="Threads of a CPU engine.")
    ] = None
    deterministic: Annotated[
        bool, Meta(description="A request's text never depends on what runs beside it.")
    ] = False
