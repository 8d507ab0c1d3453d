"""From flags, YAML and keywords to settings. A field is a flag: `--scheduler.max-running 64`.

No flag is written by hand, so none can be forgotten or out of date; the words of SGLang and vLLM
stand in `words.py`. What is said twice with two values is refused, and so is what nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from espalier.config import words
from espalier.config.engine import EngineSettings
from espalier.config.server import Secret
from espalier.config.sizes import number, size_bytes
from espalier.errors import ConfigError, NotBuilt


@dataclass(frozen=True, slots=True)
class Parsed:
    """The settings, and what is to be said about words that had no effect."""

    settings: EngineSettings
    notices: tuple[str, ...]
    rest: tuple[str, ...] = ()  # arguments that are no flags


@dataclass(slots=True)
class _Said:
    """What was said so far: values by the path of their setting, and in which word."""

    values: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def say(self, path: str, value: Any, word: str) -> None:
        if path in self.values and self.values[path] != value:
            raise ConfigError(
                f"{self.words[path]} says {self.values[path]!r} and {word} says {value!r}",
                hint="say it once",
            )
        self.values[path], self.words[path] = value, word


def parse(argv: Sequence[str]) -> Parsed:
    """Flags as a shell gives them; `--config FILE` is read first, and flags go before it."""
    said, config, rest = _Said(), _Said(), []
    arguments = list(argv)
    while arguments:
        word = arguments.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        name, given, value = word[2:].partition("=")
        if not _is_switch(name):
            value = value if given else _value_after(arguments, word)
        elif given:
            raise ConfigError(f"--{name} takes no value", hint=f"write --{name}")
        if name == "config":
            _read_file(Path(value), config)
        else:
            _take(name, value if not _is_switch(name) else True, f"--{name}", said)
    values = {**config.values, **said.values}
    named = {**config.words, **said.words}
    return Parsed(_settings(values, named), (*config.notices, *said.notices), tuple(rest))


def from_keywords(keywords: Mapping[str, Any]) -> Parsed:
    """The same words as Python keywords: `max_running_requests=8`."""
    said = _Said()
    for keyword, value in keywords.items():
        if value is None:
            continue
        name = keyword.replace("_", "-")
        if _is_switch(name) and isinstance(value, bool) and not value:
            _take_off(name, keyword, said)
            continue
        _take(name, value, keyword, said)
    return Parsed(_settings(said.values, said.words), tuple(said.notices))


def help_text() -> str:
    """Every setting with its meaning and default, group by group."""
    lines: list[str] = []
    group = ""
    for path, leaf in FIELDS.items():
        if path.partition(".")[0] != group:
            group = path.partition(".")[0]
            lines += ["", f"{group}:"]
        default = "" if leaf.default in (None, msgspec.NODEFAULT) else f" (default: {leaf.default})"
        lines.append(f"  --{path.replace('_', '-'):34}{_description(leaf)}{default}")
        others = [f"--{word}" for word, meant in words.SETTINGS.items() if meant == path]
        if others:
            lines.append(f"      also {', '.join(others)}")
    return "\n".join(lines).lstrip("\n")


def _fields(settings: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, inspect.Field]]:
    info = inspect.type_info(settings)
    assert isinstance(info, inspect.StructType), "settings are structs"
    for leaf in info.fields:
        if isinstance(leaf.type, inspect.StructType):
            yield from _fields(leaf.type.cls, f"{path}{leaf.name}.")
        else:
            yield f"{path}{leaf.name}", leaf


FIELDS: Mapping[str, inspect.Field] = dict(_fields(EngineSettings))
_BY_FLAG = {path.replace("_", "-"): path for path in FIELDS}


def _is_switch(name: str) -> bool:
    if name in words.SWITCHES or name in words.NOTICES or name in words.REFUSED_SWITCHES:
        return True
    path = _BY_FLAG.get(name.removeprefix("no-"))
    return path is not None and isinstance(FIELDS[path].default, bool)


def _value_after(arguments: list[str], word: str) -> str:
    if not arguments or arguments[0].startswith("--"):
        name = word[2:]
        if not _is_known(name):
            _refuse_unknown(word, name)
        raise ConfigError(f"{word} needs a value", hint=f"write {word} VALUE")
    values = [arguments.pop(0)]
    if word[2:] in ("router-hosts", "lora-paths"):
        while arguments and not arguments[0].startswith("--"):
            values.append(arguments.pop(0))
    return " ".join(values)


def _take(name: str, value: Any, word: str, said: _Said) -> None:
    """One word with its value, whichever table it stands in."""
    if name in words.SETTINGS or name in _BY_FLAG:
        path = words.SETTINGS.get(name) or _BY_FLAG[name]
        _check_built(path, value, word)
        said.say(path, _converted(path, value, word), word)
    elif name in words.SWITCHES:
        switch = words.SWITCHES[name]
        said.say(switch.path, switch.value, word)
        if name == "trust-remote-code":
            said.notices.append(f"{word}: accepted; code from a checkpoint is never run")
    elif name in words.NOTICES or name in words.VALUED_NOTICES:
        reason = words.NOTICES.get(name) or words.VALUED_NOTICES[name]
        said.notices.append(f"{word} has no effect: {reason}")
    elif name in words.REFUSED_SWITCHES:
        raise NotBuilt(f"{word} is not supported", hint=words.REFUSED_SWITCHES[name])
    elif name in words.REFUSED:
        if str(value) not in words.REFUSED[name].harmless:
            raise NotBuilt(f"{word} {value} is not supported", hint=words.REFUSED[name].hint)
    elif name.startswith("no-") and name[3:] in _BY_FLAG and _is_switch(name):
        said.say(_BY_FLAG[name[3:]], False, word)
    else:
        _refuse_unknown(word, name)


def _take_off(name: str, word: str, said: _Said) -> None:
    """A switch that is said to be off, as only a keyword can."""
    if name in words.SWITCHES:
        switch = words.SWITCHES[name]
        if isinstance(switch.value, bool):
            said.say(switch.path, not switch.value, word)
    elif name in _BY_FLAG:
        said.say(_BY_FLAG[name], False, word)


def _check_built(path: str, value: Any, word: str) -> None:
    if path == "speculative.algorithm" and str(value).lower() != "ngram":
        hint = "--speculative-algorithm NGRAM needs no draft model, and never changes the text"
        raise NotBuilt(f"{word} {value} is not supported", hint=hint)
    if path == "cache.dtype" and str(value).startswith(("fp8", "fp4", "int8", "nvfp4")):
        hint = "leave it out: keys and values are kept in the model's own format"
        raise NotBuilt(f"{word} {value} is not supported", hint=hint)


def _converted(path: str, value: Any, word: str) -> Any:
    """A value as its setting wants it; a string may be a number that people write."""
    spelt = words.VALUES.get(path, {})
    if str(value) in spelt:
        value = spelt[str(value)]
    if path in ("server.api_key", "server.admin_api_key"):
        value = Secret(str(value))
    elif isinstance(value, str) and path == "cache.memory_bytes":
        value = size_bytes(value, word)
    elif isinstance(value, str) and inspect.IntType in _kinds(FIELDS[path].type):
        value = number(value, word)
    return value


def _kinds(kind: inspect.Type) -> set[type]:
    inner = kind.type if isinstance(kind, inspect.Metadata) else kind
    members = inner.types if isinstance(inner, inspect.UnionType) else (inner,)
    return {type(one.type if isinstance(one, inspect.Metadata) else one) for one in members}


def _settings(values: Mapping[str, Any], named: Mapping[str, str]) -> EngineSettings:
    groups: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        group, _, name = path.partition(".")
        groups.setdefault(group, {})[name] = value
    try:
        return msgspec.convert(groups, EngineSettings, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        for path, word in named.items():
            if text.endswith(f"$.{path}`"):
                text = f"{word} = {values[path]!r}: {text.partition(' - at')[0]}"
        raise ConfigError(text, hint="`espalier help` lists every setting") from None


def _read_file(path: Path, said: _Said) -> None:
    """A YAML file: flags without their dashes, or groups of settings."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} holds no settings", hint="write `name: value` lines")
    for key, value in content.items():
        if key in EngineSettings.__struct_fields__ and isinstance(value, dict):
            for name, inner in value.items():
                _take_entry(f"{key}.{name}", inner, path, said)
        else:
            _take_entry(str(key), value, path, said)


def _take_entry(key: str, value: Any, path: Path, said: _Said) -> None:
    name, word = key.replace("_", "-"), f"{key} in {path.name}"
    if value is False and _is_switch(name):
        _take_off(name, word, said)
    elif value is not None:
        _take(name, value, word, said)


def _is_known(name: str) -> bool:
    return any(name in table for table in _TABLES)


def _refuse_unknown(word: str, name: str) -> None:
    known = [one for table in _TABLES for one in table]
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    shown = close[0] if word.startswith("--") else close[0].replace("-", "_") if close else ""
    dashes = "--" if word.startswith("--") else ""
    hint = f"did you mean {dashes}{shown}?" if close else "`espalier help` lists every setting"
    raise ConfigError(f"{word} is not known", hint=hint)


def _description(leaf: inspect.Field) -> str:
    members = leaf.type.types if isinstance(leaf.type, inspect.UnionType) else (leaf.type,)
    for kind in members:
        if isinstance(kind, inspect.Metadata) and kind.extra_json_schema:
            return str(kind.extra_json_schema.get("description", ""))
    return ""


_TABLES: tuple[Mapping[str, Any], ...] = (
    words.SETTINGS,
    _BY_FLAG,
    words.SWITCHES,
    words.NOTICES,
    words.VALUED_NOTICES,
    words.REFUSED,
    words.REFUSED_SWITCHES,
    {"config": None},
)
