"""Numbers as people write them: 32k, 1Mi, 6GB, 32GiB."""

from __future__ import annotations

import re

from espalier.errors import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_WRITTEN = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", re.IGNORECASE)


def number(text: str, name: str) -> int:
    """A whole number: `32k` is 32,000, `32Ki` is 32,768."""
    written = _WRITTEN.fullmatch(text)
    unit = written.group(2).lower() if written else ""
    factor = _BINARY.get(unit, _UNITS.get(unit))
    if written is None or factor is None:
        raise ConfigError(f"{name} = {text!r} is no number", hint="write 4096, 32k, 1Mi or 6GB")
    return int(float(written.group(1).replace("_", "")) * factor)


def size_bytes(text: str, name: str) -> int:
    """A size in bytes. As memory is sold and reported, `GB` here is 2^30 bytes, like `GiB`."""
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise ConfigError(f"{name} = {text!r} is no size", hint="write 6GB or 512MB")
    unit = written.group(2).lower().removesuffix("i")
    factor = _BINARY.get(unit + "i", 1)
    return int(float(written.group(1).replace("_", "")) * factor)


def shown(size: int) -> str:
    """A size in bytes, to be read."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} B"
