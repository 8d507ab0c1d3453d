"""Lines of Python by folder, and how many more or fewer than at a commit: `python tools/sizes.py`.

Growth is seen on every change. The default to compare with is the commit before.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOTS = ("espalier", "tests", "tools", "benchmarks")


def main(base: str) -> None:
    """Print a line for each folder."""
    now, before = _here(), _at(base)
    for folder in sorted(now | before):
        _tell(folder, now[folder], before[folder])
    _tell("all", now.total(), before.total())


def _tell(folder: str, now: int, before: int) -> None:
    change = f"{now - before:+}" if now != before else ""
    sys.stdout.write(f"{folder:28}{now:>8}{change:>8}\n")


def _here() -> Counter[str]:
    lines: Counter[str] = Counter()
    for root in ROOTS:
        for path in Path(root).rglob("*.py"):
            lines[str(path.parent)] += path.read_text(encoding="utf-8").count("\n")
    return lines


def _at(base: str) -> Counter[str]:
    """The same at a commit; nothing where there is no such commit, as in an archive."""
    lines: Counter[str] = Counter()
    listing = _git("grep", "-c", "", base, "--", *(f"{root}/**.py" for root in ROOTS))
    for line in listing.splitlines():
        _, path, count = line.rsplit(":", 2)
        lines[str(Path(path).parent)] += int(count)
    return lines


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "HEAD~1")
