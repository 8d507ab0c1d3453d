"""The progress line, on a clock that the test turns."""

from __future__ import annotations

import io

from espalier.loading.progress import ProgressLine, watched


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_shown_of_what_is_quick() -> None:
    clock, out = Clock(), io.StringIO()
    line = ProgressLine("loading", 100, out, clock=clock)
    clock.now += 0.9
    line.advance(100)
    line.close()
    assert out.getvalue() == ""


def test_a_slow_one_is_drawn_now_and_then_and_ended() -> None:
    clock, out = Clock(), io.StringIO()
    line = ProgressLine("loading", 4_000_000_000, out, clock=clock)
    clock.now += 2
    line.advance(1_000_000_000)
    line.advance(1_000_000_000)  # too soon after the first to be drawn
    assert out.getvalue().count("\r") == 1
    assert " 25% 1.00 GB, 500 MB/s" in out.getvalue()
    clock.now += 2
    line.advance(2_000_000_000)
    line.close()
    assert out.getvalue().endswith("100% 4.00 GB, 1000 MB/s\n")


def test_nobody_watches_a_pipe() -> None:
    assert watched("loading", 1) is None
