"""From flags, YAML and keywords to settings. A field is a flag: `--scheduler.max-running 64`.

No flag is written by hand, so none can be forgotten or out of date (`fields.py`); the words of
SGLang and vLLM stand in `words.py`. What is said twice with two values is refused, and so is what
nobody knows; `families.py` tells those apart that SGLang would know.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import yaml
from msgspec import inspect

from espalier.config import families, fields, words
from espalier.config.engine import EngineSettings
from espalier.config.fields import BY_FLAG, FIELDS
from espalier.config.server import Secret
from espalier.config.sizes import number, size_bytes
from espalier.errors import ConfigError, NotBuilt

__all__ = ["FIELDS", "Parsed", "from_keywords", "help_text", "parse"]

_ON_OFF = {"true": True, "false": False}
_TABLES: tuple[Mapping[str, Any], ...] = (
    words.SETTINGS,
    BY_FLAG,
    words.SWITCHES,
    words.NOTICES,
    words.VALUED_NOTICES,
    words.REFUSED,
    words.REFUSED_SWITCHES,
    {"config": None},
)


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
                hint="they are the same setting: say it once",
            )
        self.values[path], self.words[path] = value, word


def parse(argv: Sequence[str]) -> Parsed:
    """Flags as a shell gives them; what `--config FILE` says gives way to flags."""
    said, from_file, rest = _Said(), _Said(), []
    arguments = list(argv)
    while arguments:
        word = arguments.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        name, given, value = word[2:].partition("=")
        if name == "config":
            _read_file(Path(value if given else _value_after(arguments, word)), from_file)
        elif _is_switch(name):
            _turn(name, _on_or_off(name, value) if given else True, f"--{name}", said)
        else:
            _take(name, value if given else _value_after(arguments, word), f"--{name}", said)
    return _parsed(said, from_file, rest)


def from_keywords(keywords: Mapping[str, Any]) -> Parsed:
    """The same words as Python keywords: `max_running_requests=8`. None says nothing."""
    said, from_file = _Said(), _Said()
    for keyword, value in keywords.items():
        if keyword == "config" and value is not None:
            _read_file(Path(value), from_file)
        else:
            _take_entry(keyword, value, keyword, said)
    return _parsed(said, from_file, [])


def help_text() -> str:
    """Every setting with its meaning, bounds, default and other names, group by group."""
    lines: list[str] = []
    for path in FIELDS:
        group = f"{path.partition('.')[0]}:"
        if group not in lines:
            lines += ["", group]
        flag = f"--{path.replace('_', '-')}"
        meant = f"{fields.bounds(path)}; {fields.default(path)}"
        lines.append(f"  {flag:34} {fields.description(path)} [{meant}]")
        others = ", ".join(f"--{word}" for word in other_words(path))
        if others:
            lines.append(f"  {'':34} also {others}")
    return "\n".join(lines).lstrip("\n")


def other_words(path: str) -> list[str]:
    """The names by which users of the peers know a setting."""
    switches = [word for word, says in words.SWITCHES.items() if says.path == path]
    return [*(word for word, meant in words.SETTINGS.items() if meant == path), *switches]


def _is_switch(name: str) -> bool:
    if name in words.SWITCHES or name in words.NOTICES or name in words.REFUSED_SWITCHES:
        return True
    path = BY_FLAG.get(name.removeprefix("no-"))
    return path is not None and fields.is_switch(path)


def _value_after(arguments: list[str], word: str) -> str:
    name = word[2:]
    if not any(name in table for table in _TABLES):
        _refuse_unknown(word, name)
    if not arguments or arguments[0].startswith("--"):
        raise ConfigError(f"{word} needs a value", hint=f"write {word} VALUE")
    values = [arguments.pop(0)]
    while name in words.LISTS and arguments and not arguments[0].startswith("--"):
        values.append(arguments.pop(0))
    return " ".join(values)


def _on_or_off(name: str, value: str) -> bool:
    if value.lower() not in _ON_OFF:
        raise ConfigError(f"--{name}={value}: it takes no value", hint=f"write --{name}")
    return _ON_OFF[value.lower()]


def _turn(name: str, on: bool, word: str, said: _Said) -> None:
    """One switch, on or off, whichever table it stands in."""
    if name in words.SWITCHES:
        switch = words.SWITCHES[name]
        if on or isinstance(switch.value, bool):
            said.say(switch.path, switch.value if on else not switch.value, word)
    elif name in words.REFUSED_SWITCHES:
        if on:
            raise NotBuilt(f"{word} is not supported", hint=words.REFUSED_SWITCHES[name])
    elif name in words.NOTICES:
        if on:
            said.notices.append(f"{word} has no effect: {words.NOTICES[name]}")
    elif name in BY_FLAG:
        said.say(BY_FLAG[name], on, word)
    else:
        said.say(BY_FLAG[name.removeprefix("no-")], not on, word)


def _take(name: str, value: Any, word: str, said: _Said) -> None:
    """One word with its value, whichever table it stands in."""
    if name in words.SETTINGS or name in BY_FLAG:
        path = words.SETTINGS.get(name) or BY_FLAG[name]
        said.say(path, _converted(path, value, word), word)
    elif name in words.VALUED_NOTICES:
        said.notices.append(f"{word} has no effect: {words.VALUED_NOTICES[name]}")
    elif name in words.REFUSED:
        if str(value) not in words.REFUSED[name].harmless:
            raise NotBuilt(f"{word} {value} is not supported", hint=words.REFUSED[name].hint)
    else:
        _refuse_unknown(word, name)


def _take_entry(key: str, value: Any, word: str, said: _Said) -> None:
    """A name with a Python value, from a file or a keyword."""
    name = key.replace("_", "-")
    is_known = any(name in table for table in _TABLES)
    if not is_known and value in (None, False) and families.way_out(name):
        return
    if not _is_switch(name):
        if value is not None:
            _take(name, value, word, said)
        elif not is_known:
            _refuse_unknown(word, name)
    elif isinstance(value, bool):
        _turn(name, value, word, said)
    elif value is not None:
        raise ConfigError(f"{word} = {value!r}: it is on or off", hint="write true or false")


def _converted(path: str, value: Any, word: str) -> Any:
    """A value as its setting wants it; a string may be a number that people write."""
    if str(value) in (spelt := words.VALUES.get(path, {})):
        value = spelt[str(value)]
    patterns, hint = words.NOT_BUILT_VALUES.get(path, ((), ""))
    if any(fnmatchcase(str(value).lower(), pattern) for pattern in patterns):
        raise NotBuilt(f"{word} {value} is not supported", hint=hint)
    if path in ("server.api_key", "server.admin_api_key"):
        return value if isinstance(value, Secret) else Secret(str(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _number(path, value, word) if isinstance(value, str) else value


def _number(path: str, text: str, word: str) -> Any:
    if path == "cache.memory_bytes":
        return size_bytes(text, word)
    if inspect.IntType in fields.kinds(path):
        return number(text, word)
    if inspect.FloatType in fields.kinds(path):
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{word} = {text!r} is no number", hint="write 0.85") from None
    return text


def _parsed(said: _Said, from_file: _Said, rest: Sequence[str]) -> Parsed:
    settings = _settings({**from_file.values, **said.values}, {**from_file.words, **said.words})
    notices = [*from_file.notices, *said.notices]
    if settings.model.trust_remote_code:
        notices.append("trust-remote-code is accepted; code from a checkpoint is never run")
    return Parsed(settings, tuple(dict.fromkeys(notices)), tuple(rest))


def _settings(values: Mapping[str, Any], named: Mapping[str, str]) -> EngineSettings:
    for one, other in words.EXCLUSIVE:
        if one in values and other in values:
            raise ConfigError(
                f"{named[one]} and {named[other]} are both given", hint="say one of the two"
            )
    groups: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        group, _, name = path.partition(".")
        groups.setdefault(group, {})[name] = value
    try:
        return msgspec.convert(groups, EngineSettings)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        path = path.removesuffix("`")
        if path not in named:
            raise ConfigError(str(error), hint="`espalier help` lists every setting") from None
        raise ConfigError(
            f"{named[path]} = {values[path]!r}: {what}",
            hint=f"{fields.description(path)} Takes {fields.bounds(path)}",
        ) from None


def _read_file(path: Path, said: _Said) -> None:
    """A YAML file: flags without their dashes, or groups of settings."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} holds no settings", hint="write `name: value` lines")
    for key, value in content.items():
        inner = value if isinstance(value, dict) and str(key) in _GROUPS else {}
        for name, one in inner.items():
            _take_entry(f"{key}.{name}", one, f"{key}.{name} in {path.name}", said)
        if not inner:
            _take_entry(str(key), value, f"{key} in {path.name}", said)


_GROUPS = frozenset(EngineSettings.__struct_fields__)


def _refuse_unknown(word: str, name: str) -> NoReturn:
    known = [one for table in _TABLES for one in table]
    way_out = families.way_out(name)
    # A flag of a family is likely meant as it stands, unless it is all but one that is built.
    close = get_close_matches(name, known, n=1, cutoff=0.9 if way_out else 0.5)
    if way_out and not close:
        raise NotBuilt(f"{word} is not supported", hint=way_out)
    hint = "`espalier help` lists every setting"
    if close:
        is_flag = word.startswith("--")
        hint = f"did you mean {'--' + close[0] if is_flag else close[0].replace('-', '_')}?"
    raise ConfigError(f"{word} is not known", hint=hint)
