"""A progress line on standard error, for what takes longer than a second and is watched by a person."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Lock
from typing import TextIO, TypeAlias

Advance: TypeAlias = Callable[[int], None]

PATIENCE_S = 1.0  # nothing is shown before
EVERY_S = 0.2
WIDTH = 30


def unseen(num_bytes: int) -> None:
    """Shows nothing."""
    del num_bytes


class ProgressLine:
    """`advance` may be called by several threads; the line is drawn by whoever comes when it is due."""

    def __init__(
        self, what: str, total: int, out: TextIO = sys.stderr, *, clock: Callable[[], float]
    ) -> None:
        self._what, self._total, self._out, self._clock = what, max(total, 1), out, clock
        self._done = 0
        self._started = self._clock()
        self._due = self._started + PATIENCE_S
        self._drawn = False
        self._lock = Lock()  # keeps the count and the line whole

    def advance(self, num_bytes: int) -> None:
        """So many more bytes are done."""
        with self._lock:
            self._done += num_bytes
            now = self._clock()
            if now >= self._due:
                self._due = now + EVERY_S
                self._draw(now)

    def close(self) -> None:
        """End the line, if one was drawn."""
        with self._lock:
            if self._drawn:
                self._draw(self._clock())
                self._out.write("\n")
                self._out.flush()
                self._drawn = False

    def _draw(self, now: float) -> None:
        share = min(self._done / self._total, 1.0)
        bar = ("#" * round(share * WIDTH)).ljust(WIDTH, ".")
        speed = self._done / max(now - self._started, 1e-9)
        line = (
            f"{self._what} [{bar}] {share:4.0%} {self._done / 1e9:.2f} GB, {speed / 1e6:.0f} MB/s"
        )
        self._out.write(f"\r{line}")
        self._out.flush()
        self._drawn = True


def watched(what: str, total: int) -> ProgressLine | None:
    """A line for `total` bytes, or None where nobody watches standard error."""
    if not sys.stderr.isatty():
        return None
    return ProgressLine(what, total, sys.stderr, clock=time.monotonic)
