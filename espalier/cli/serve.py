"""`serve`: reads and checks all that was said; the HTTP server itself is not built yet."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.cache.eviction import ORDERS
from espalier.cli.reading import read_one
from espalier.errors import NotBuilt
from espalier.scheduler.policy import POLICIES


def run(argv: Sequence[str]) -> str:
    """Start the HTTP server; not built yet: it checks its flags and says so."""
    settings = read_one(argv)
    POLICIES.get(settings.scheduler.policy)
    ORDERS.get(settings.cache.eviction)
    raise NotBuilt(
        f"the flags are right, but the HTTP server is not built yet, so nothing listens on "
        f"{settings.server.host}:{settings.server.port}",
        hint="`espalier generate --model-path MODEL --prompt TEXT`, or espalier.Engine in Python",
    )
