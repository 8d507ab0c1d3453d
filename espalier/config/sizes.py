"""Numbers as people write them: 32k, 1Mi, 6GB, 32GiB."""

from __future__ import annotations

import re
from fractions import Fraction

from espalier.errors import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_WRITTEN = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([kmgt]i?)?(b)?\s*", re.IGNORECASE | re.ASCII)
_MOST = 2**63 - 1


def number(text: str, name: str) -> int:
    """A whole number: `32k` is 32,000, `32Ki` is 32,768."""
    hint = "write 4096, 32k or 1Mi"
    if re.fullmatch(r"\s*-\d{1,18}\s*", text, re.ASCII):
        return int(text)
    written = _WRITTEN.fullmatch(text)
    if written is None or written.group(3):
        raise ConfigError(f"{name} = {text!r} is no number", hint=hint)
    unit = (written.group(2) or "").lower()
    return _whole(written.group(1), _BINARY.get(unit) or _UNITS[unit], f"{name} = {text!r}", hint)


def size_bytes(text: str, name: str) -> int:
    """A size in bytes. As memory is sold and reported, `GB` here is 2^30 bytes, like `GiB`."""
    hint = "write 6GB or 512MB"
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise ConfigError(f"{name} = {text!r} is no size", hint=hint)
    unit = (written.group(2) or "").lower().removesuffix("i")
    return _whole(written.group(1), _BINARY.get(unit + "i", 1), f"{name} = {text!r}", hint)


def _whole(digits: str, factor: int, said: str, hint: str) -> int:
    value = Fraction(digits.replace("_", "")) * factor
    if value > _MOST:
        raise ConfigError(f"{said} is too large", hint=hint)
    if factor == 1 and value.denominator != 1:
        raise ConfigError(f"{said} is no whole number", hint=hint)
    return int(value)


def shown(size: int) -> str:
    """A size in bytes, to be read."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} B"
