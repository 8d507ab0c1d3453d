"""What can be set, as a flat table: `scheduler.max_running` to its field. Made from the structs.

Flags, help and the page of settings are all read from here, so none of them can be out of date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import inspect

from espalier.config.engine import EngineSettings


def _fields(settings: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, inspect.Field]]:
    info = inspect.type_info(settings)
    assert isinstance(info, inspect.StructType), "settings are structs"
    for leaf in info.fields:
        if isinstance(leaf.type, inspect.StructType):
            yield from _fields(leaf.type.cls, f"{path}{leaf.name}.")
        else:
            yield f"{path}{leaf.name}", leaf


FIELDS: Mapping[str, inspect.Field] = dict(_fields(EngineSettings))
BY_FLAG: Mapping[str, str] = {path.replace("_", "-"): path for path in FIELDS}


def is_switch(path: str) -> bool:
    return isinstance(FIELDS[path].default, bool)


def kinds(path: str) -> set[type[inspect.Type]]:
    """The kinds of value that a setting takes, `None` among them where it may be left open."""
    return {type(_bare(one)) for one in _members(FIELDS[path].type)}


def description(path: str) -> str:
    """One line of help."""
    for one in _members(FIELDS[path].type, inner=False):
        if isinstance(one, inspect.Metadata) and one.extra_json_schema:
            return str(one.extra_json_schema.get("description", ""))
    return ""


def bounds(path: str) -> str:
    """What values it takes, in words: `1 to 64`, `above 0`, `auto, float32 or bfloat16`."""
    for one in map(_bare, _members(FIELDS[path].type)):
        if isinstance(one, inspect.LiteralType):
            *first, last = map(str, one.values)
            return f"{', '.join(first)} or {last}"
        if isinstance(one, inspect.IntType | inspect.FloatType):
            return _range(one)
        if isinstance(one, inspect.BoolType):
            return "on or off"
    return "text"


def default(path: str) -> str:
    """The default, or what takes its place."""
    value = FIELDS[path].default
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) or "none"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    least = f"from {_plain(kind.ge)}" if kind.ge is not None else ""
    if kind.gt is not None:
        least = f"above {_plain(kind.gt)}"
    most = f" to {_plain(kind.le)}" if kind.le is not None else ""
    plain = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    return f"{plain} {least}{most}".strip()


def _plain(bound: float) -> str:
    return str(int(bound) if bound == int(bound) else bound)


def _members(kind: inspect.Type, *, inner: bool = True) -> tuple[inspect.Type, ...]:
    plain = kind.type if inner and isinstance(kind, inspect.Metadata) else kind
    return plain.types if isinstance(plain, inspect.UnionType) else (plain,)


def _bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind
