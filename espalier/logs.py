"""One log format for every process, and `once` for what is said a single time.

A line is something to act on or to date a crash by; per step there are statistics, not logs.
"""

from __future__ import annotations

import logging
import sys
from functools import cache

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(level: str = "info") -> None:
    """Send espalier's records to standard error; other libraries keep their own ways."""
    ours = logging.getLogger("espalier")
    ours.setLevel(level.upper())
    if not ours.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(FORMAT))
        ours.addHandler(handler)
        ours.propagate = False


@cache
def once(log: logging.Logger, message: str) -> None:
    """Log `message` at level warning the first time, and never again."""
    log.warning("%s", message)
