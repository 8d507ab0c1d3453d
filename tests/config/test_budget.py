"""Settings are a budget: they grow by a decision record, not by a flag at a time."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from espalier.config import fields
from espalier.config.engine import EngineSettings
from espalier.config.env import VARIABLES, environment
from espalier.config.fields import FIELDS

PACKAGE = Path(__file__).parents[2] / "espalier"


def test_there_are_at_most_120_settings_and_15_environment_variables() -> None:
    assert 30 <= len(FIELDS) <= 120
    assert 5 <= len(VARIABLES) <= 15


def test_every_setting_says_what_it_means_and_what_it_takes() -> None:
    for path in FIELDS:
        assert fields.description(path).endswith(".") or ":" in fields.description(path), path
        assert fields.bounds(path), path


def test_every_setting_has_a_default_that_is_valid() -> None:
    settings = EngineSettings()
    assert msgspec.convert(msgspec.structs.asdict(settings), EngineSettings) == settings


def test_settings_cannot_be_changed() -> None:
    settings = EngineSettings()
    with pytest.raises(AttributeError):
        settings.scheduler.max_queued = 1  # type: ignore[misc]


def test_nobody_else_reads_the_environment() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name == "env.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"environ", "getenv"}, f"{path}:{node.lineno}"


def test_only_variables_of_the_table_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a token")
    monkeypatch.setenv("ESPALIER_UNHEARD_OF", "1")
    assert environment()["HF_TOKEN"] == "a token"
    assert set(environment()) <= set(VARIABLES)
