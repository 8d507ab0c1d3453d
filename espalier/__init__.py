"""Espalier serves large language models. The public names, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Engine": "espalier.offline",
    "SamplingParams": "espalier.front.params",
    "EspalierError": "espalier.errors",
    "ConfigError": "espalier.errors",
    "RequestError": "espalier.errors",
    "EngineError": "espalier.errors",
}
__version__ = "0.1.0"
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604  (the names are strings)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'espalier' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
