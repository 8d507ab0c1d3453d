"""`plan` and `explain`: what would happen, before anything is loaded. Neither needs torch to answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import structs

from espalier.cli.reading import config_folder, read, read_one
from espalier.errors import ConfigError
from espalier.front.plan import plan_report
from espalier.front.resolve import explain_report
from espalier.platforms.detect import for_planning, this_machine


def plan(argv: Sequence[str]) -> str:
    """Print what models need, and whether they fit: plan MODEL ... --memory 32GB --device cpu."""
    settings, names = read(argv)
    names = [name for name in (settings.model.path, *names) if name]
    if not names:
        raise ConfigError("no model is named", hint="espalier plan MODEL --memory 32GB")
    with TemporaryDirectory(prefix="espalier-") as work:
        models = [
            (name, config_folder(structs.replace(settings.model, path=name), Path(work)))
            for name in names
        ]
        return plan_report(models, settings, for_planning(settings.kernels.device))


def explain(argv: Sequence[str]) -> str:
    """Print every setting as it would be, and why: explain MODEL."""
    settings = read_one(argv)
    with TemporaryDirectory(prefix="espalier-") as work:
        folder = config_folder(settings.model, Path(work))
        return explain_report(settings, folder, this_machine(settings.kernels.device))
