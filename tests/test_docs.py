"""The pages are true where a machine can tell: links lead somewhere, and commands are understood."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.cli import generate
from espalier.cli.main import COMMANDS
from espalier.config.cli import from_keywords, parse

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
FILE = re.compile(r"`([\w./-]+\.(?:py|txt))`")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_there_are_pages() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/README.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    known = {path.name for path in (ROOT / "espalier").rglob("*.py")}
    for name in FILE.findall(page.read_text(encoding="utf-8")):
        places = [ROOT / name, ROOT / "espalier" / name]
        assert any(path.exists() for path in places) or name in known, name


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every line of a shell block that calls us, with its page."""
    for page in PAGES:
        for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind in ("bash", "sh", "console"):
                for line in block.replace("\\\n", " ").splitlines():
                    words = shlex.split(line.removeprefix("$ "), comments=True)
                    if words and words[0] == "espalier":
                        yield page.name, words[1:]


def test_every_command_on_a_page_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "start" / "command-line.md").read_text(encoding="utf-8")
    [file] = [block for kind, block in BLOCK.findall(page) if kind == "yaml"]
    (tmp_path / "engine.yaml").write_text(file)
    monkeypatch.chdir(tmp_path)
    found = list(commands())
    assert len(found) >= 3
    for name, (command, *argv) in found:
        assert command in COMMANDS, name
        wanted, rest = generate._split(argv) if command == "generate" else (None, argv)
        parse(rest)
        assert wanted is None or wanted.prompts, name


def test_python_for_users_can_be_read_and_its_keywords_are_known() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs" / "start").glob("*.md")]:
        for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind == "python":
                compile(block, str(page), "exec")
                for keyword in re.findall(r"Engine\(([^)]*)\)", block):
                    names = re.findall(r"(\w+)=", keyword)
                    from_keywords(dict.fromkeys(names))


def test_the_page_of_settings_is_made_from_the_settings() -> None:
    tool = [sys.executable, "tools/settings_page.py", "--check"]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
