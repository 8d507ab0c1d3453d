"""Steps are sized by time: the cost of a token is learned, and the budget keeps to the target."""

from __future__ import annotations

import pytest

from espalier.scheduler.pace import Pace


@pytest.mark.parametrize(("fixed", "each"), [(0.002, 0.0001), (0.0, 0.001), (0.02, 0.00001)])
def test_the_budget_is_what_fits_the_target(fixed: float, each: float) -> None:
    pace = Pace(target_s=0.05)
    for tokens in (8, 100, 300, 64, 8, 200):
        pace.observe(tokens, fixed + each * tokens)
    expected = (0.05 - fixed) / each
    assert pace.budget(10**9, running=4) == pytest.approx(expected, rel=0.05, abs=2)


def test_a_machine_that_slows_down_gets_smaller_steps() -> None:
    pace = Pace(target_s=0.05)
    for _ in range(20):
        for tokens in (10, 100):
            pace.observe(tokens, 0.0001 * tokens)
    quick = pace.budget(10**9, running=1)
    for _ in range(40):
        for tokens in (10, 100):
            pace.observe(tokens, 0.001 * tokens)
    assert pace.budget(10**9, running=1) < quick / 5


def test_it_is_never_above_the_limit_nor_below_a_token_for_each() -> None:
    pace = Pace(target_s=0.001)
    for tokens in (8, 100, 300, 64, 8, 200):
        pace.observe(tokens, 0.5)
    assert pace.budget(500, running=7) == 8
    assert Pace(target_s=None).budget(500, running=7) == 500
    assert Pace(target_s=0.1).budget(500, running=7) == 500, "nothing is known yet"
