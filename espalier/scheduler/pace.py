"""How many tokens a step may hold so that it takes no longer than a running stream should wait.

Steps are timed; a step's seconds are taken to be a fixed part and a part for each token, both
learned with a short memory. Sizing by time, not by count, is what keeps a long prompt from
stalling the streams beside it on a slow machine, and lets it go fast on a quick one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_MEMORY = 0.9  # weight of the past against the newest step
_FEWEST_STEPS = 4


@dataclass(slots=True)
class Pace:
    target_s: float | None
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    _steps: int = 0

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        if self.target_s is None or tokens <= 0 or seconds <= 0.0:
            return
        new = (1.0, float(tokens), seconds, float(tokens) ** 2, tokens * seconds)
        self._sums = [_MEMORY * old + now for old, now in zip(self._sums, new, strict=True)]
        self._steps += 1

    def budget(self, most: int, running: int) -> int:
        """Tokens for the next step: at most `most`, at least one for each running request."""
        if self.target_s is None or not running:
            return most
        if self._steps < _FEWEST_STEPS:
            return most
        fixed, each = self._fit()
        room = (self.target_s - fixed) / each if each > 0.0 else float(most)
        return max(min(most, int(room)), running + 1)

    def _fit(self) -> tuple[float, float]:
        """Least squares of seconds over tokens; through the origin while all steps were alike."""
        n, x, y, xx, xy = self._sums
        spread = n * xx - x * x
        if spread < 1e-6 * n * xx:
            return 0.0, y / x
        each = (n * xy - x * y) / spread
        return (0.0, y / x) if each <= 0.0 else (max(0.0, (y - each * x) / n), each)
