"""A line on the terminal that says how far a batch has come."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

_WIDTH = 30
_EVERY_S = 0.1
_FEWEST = 2  # a single request needs no line


class Progress:
    """Shown for a batch on a terminal, or as told; leaves a finished line behind."""

    def __init__(self, total: int, shown: bool | None = None) -> None:
        self._total = total
        self._shown = sys.stderr.isatty() and total >= _FEWEST if shown is None else shown
        self._began = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write("\n")

    def update(self, done: int) -> None:
        now = time.monotonic()
        if not self._shown or (now - self._drawn < _EVERY_S and done < self._total):
            return
        self._drawn = now
        full = _WIDTH * done // max(self._total, 1)
        bar = "#" * full + "." * (_WIDTH - full)
        seconds = now - self._began
        sys.stderr.write(f"\r[{bar}] {done}/{self._total} requests, {seconds:.1f} s")
        sys.stderr.flush()
