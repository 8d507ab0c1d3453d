"""The house itself: which half runs without torch, and that its rules are enforced."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TORCH_FREE = (
    *("errors", "registry", "logs", "config", "protocol", "observability", "tokenizer", "cache"),
    *("scheduler", "front", "loading.facts", "loading.header", "loading.hub", "platforms.base"),
    *("speculative.ngram", "cli"),
)
# It runs in a child of its own, and is the one place there that may import transformers.
APART = ("espalier.tokenizer.convert",)
IMPORT_ALL = f"""
import importlib, pkgutil, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "triton"):
            raise ImportError(f"the torch-free half imports {{name}}")

sys.meta_path.insert(0, Forbidden())
for top in {TORCH_FREE!r}:
    module = importlib.import_module(f"espalier.{{top}}")
    names = [module.__name__]
    if hasattr(module, "__path__"):
        names += [one.name for one in pkgutil.walk_packages(module.__path__, module.__name__ + ".")]
    for name in names:
        if name not in {APART!r}:
            importlib.import_module(name)
            print(name)
"""


def test_half_of_the_house_runs_without_torch_and_transformers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert {"espalier.front.plan", "espalier.scheduler.scheduler", "espalier.cli.main"} <= set(
        done.stdout.split()
    )


def test_the_package_itself_imports_next_to_nothing() -> None:
    code = "import sys, espalier; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.fixture(scope="module")
def house() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "check_house.py"))


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("def f():\n" + "    x = 1\n" * 50, "f is longer than 50 lines"),
        ("x = 1\n" * 401, "longer than 400 lines"),
        ("class AMixin: pass", "AMixin: a mixin"),
        ("class A:\n" + "".join(f"    def f{i}(self): ...\n" for i in range(21)), "20 methods"),
        ("class A:\n" + "".join(f"    f{i}: int\n" for i in range(21)), "20 fields"),
        ("hasattr(x, 'y')", "hasattr"),
        ("def f():\n    global x", "global x"),
        ("import os\nos.environ['A']", "reads the environment"),
        ("import os\nos.getenv('A')", "reads the environment"),
        ("try:\n    x\nexcept Exception:\n    pass", "catches everything"),
        ("try:\n    x\nexcept:\n    pass", "catches everything"),
        ("import pickle", "unpickles"),
        ("from pickle import loads", "unpickles"),
        ("x = 1", "does not open by saying"),
    ],
)
def test_the_house_rules_find_what_they_forbid(
    house: dict[str, Any], tmp_path: Path, text: str, finding: str
) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text)
    assert any(finding in found for found in house["check"](path))


def test_the_house_rules_find_nothing_in_what_is_well_made(
    house: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "env.py"
    path.write_text(
        '"""What it holds."""\nimport os\nos.environ\n'
        "try:\n    x\nexcept Exception:\n    raise\nexcept ValueError:\n    pass\n"
    )
    assert list(house["check"](path)) == []


@pytest.mark.parametrize(
    ("listed", "code"),
    [
        ("{path}: global x # the reason", 0),
        ("", 1),
        ("{path}: global x # ", 1),
        ("{path}: global x", 1),
        ("{path}: global x # the reason\n{path}: global y # gone", 1),
    ],
)
def test_an_exception_has_a_reason_and_is_still_true(
    house: dict[str, Any], tmp_path: Path, listed: str, code: int
) -> None:
    main: Callable[[Path, Path], int] = house["main"]
    folder = tmp_path / "package"
    folder.mkdir()
    path = folder / "file.py"
    path.write_text('"""What it holds."""\ndef f():\n    global x\n')
    exceptions = tmp_path / "exceptions.txt"
    exceptions.write_text(listed.format(path=path))
    assert main(folder, exceptions) == code


def test_the_house_is_in_order() -> None:
    tool = [sys.executable, "tools/check_house.py", "espalier"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "")
