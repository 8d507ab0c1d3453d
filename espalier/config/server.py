"""The HTTP server: where it listens and what it says."""

from __future__ import annotations

from hmac import compare_digest
from typing import Annotated, Literal

from msgspec import Meta

from espalier.config.base import Settings


class Secret:
    """A key that is never printed, logged or encoded."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def reveal(self) -> str:
        """The key itself, for comparing."""
        return self._value


class ServerSettings(Settings, frozen=True, kw_only=True):
    """Address, keys, log."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="Port to listen on.")] = 30000
    api_key: Annotated[Secret | None, Meta(description="Key that clients must show.")] = None
    admin_api_key: Annotated[Secret | None, Meta(description="Key for the admin routes.")] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Meta(description="What is logged."),
    ] = "info"
    metrics: Annotated[bool, Meta(description="Serve /metrics.")] = True
