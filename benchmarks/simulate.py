"""How fast the scheduler is simulated with every invariant checked after every action.

    python benchmarks/simulate.py [seeds] [first seed]

Goal: 5,000 steps a second on one core; at least 1,000. Any seed that fails is named, and the same
seed fails again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the worlds live among the tests

from tests.system.traffic import Traffic, drive


def main(seeds: int = 300, first: int = 0) -> None:
    steps, checks = 0, 0
    happened: Counter[str] = Counter()
    start = time.process_time()
    for seed in range(first, first + seeds):
        try:
            world = drive(Traffic(seed))
        except AssertionError as error:
            raise SystemExit(f"seed {seed}: {error}") from error
        steps += world.steps
        checks += world.checks
        happened += world.happened
    seconds = time.process_time() - start
    print(
        f"{seeds} seeds, {steps} steps, {checks} checks of all invariants: {seconds:.1f} s of CPU"
    )
    print(f"{steps / seconds:.0f} steps a second")
    for name, count in sorted(happened.items()):
        print(f"  {name}: {count}")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
