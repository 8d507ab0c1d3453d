"""Writes `docs/reference/settings.md` from the settings; with `--check` only says if it is old.

python tools/settings_page.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from espalier.config import families, fields, words
from espalier.config.cli import other_words
from espalier.config.engine import EngineSettings
from espalier.config.env import VARIABLES

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
HEAD = """# Settings

Made by `make docs` from `espalier/config/`; do not edit.

Every setting is a flag (`--scheduler.max-running 64`), a key in the YAML file that `--config` names
(`scheduler: {max_running: 64}`), and a field of `EngineSettings`. The words of SGLang and vLLM mean
the same, as flags, as keys and as keywords of `espalier.Engine` (`max_running_requests=64`). Numbers
may be written `32k` or `1Mi`, memory `6GB`. What is said twice with two values is an error, and so
is a word that nobody knows. What is not set is settled at start: `espalier explain MODEL` says how.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            HEAD,
            *_settings(),
            "## Environment\n",
            *(f"- `{name}`: {meaning}" for name, meaning in VARIABLES.items()),
            "",
            "## Accepted without effect\n",
            "A line in the log says why.\n",
            *_table({**words.NOTICES, **words.VALUED_NOTICES}),
            "## Refused by name\n",
            "What they stand for is not built; the message says what to do instead. A value in",
            "brackets changes nothing and is accepted.\n",
            *_table({name: _unless(one) for name, one in words.REFUSED.items()}),
            *_table(words.REFUSED_SWITCHES),
            "So are whole families of flags:\n",
            *(f"- {hint}: {_listed(patterns)}" for hint, patterns in families.FAMILIES),
            "",
        ]
    )


def _settings() -> list[str]:
    lines: list[str] = []
    for group in EngineSettings.__struct_fields__:
        lines += [
            f"## {group}\n",
            "| setting | | takes | default | also |",
            "|---|---|---|---|---|",
        ]
        for path in (path for path in fields.FIELDS if path.startswith(f"{group}.")):
            also = " ".join(f"`--{word}`" for word in other_words(path))
            row = (f"`{path}`", fields.description(path), fields.bounds(path))
            lines.append(f"| {' | '.join(row)} | {fields.default(path)} | {also} |")
        lines.append("")
    return lines


def _table(rows: Mapping[str, str]) -> list[str]:
    return [*(f"- `--{name}`: {rows[name]}" for name in sorted(rows)), ""]


def _listed(patterns: str) -> str:
    return " ".join(f"`{pattern}`" for pattern in patterns.split())


def _unless(one: words.Unless) -> str:
    return f"{one.hint} [{', '.join(one.harmless)}]" if one.harmless else one.hint


if __name__ == "__main__":
    wanted = page()
    if "--check" not in sys.argv:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(wanted, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != wanted:
        sys.exit(f"{PAGE.name} is out of date: run `make docs`")
