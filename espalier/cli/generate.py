"""`generate`: continue prompts once, from the command line, by the engine in this process.

Beside the settings it takes the words of `SamplingParams` as flags (`--max-new-tokens 64`), since
what is said of one request is no setting.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

import espalier
from espalier.cli.reading import read_one
from espalier.config.words import SETTINGS
from espalier.errors import ConfigError
from espalier.front.params import ALIASES, SamplingParams

log = logging.getLogger(__name__)

_FIELDS = {one.name: one.default for one in dataclasses.fields(SamplingParams)}
_SAMPLING = {
    name.replace("_", "-"): ALIASES.get(name, name)
    for name in (*_FIELDS, *ALIASES)
    if name != "says_length" and name not in SETTINGS
}


@dataclass(slots=True)
class _Wanted:
    prompts: list[str] = field(default_factory=list)
    sampling: dict[str, Any] = field(default_factory=dict)
    chat: bool = False
    json: bool = False


def run(argv: Sequence[str]) -> str:
    """Continue a prompt: generate --model-path MODEL --prompt TEXT [--max-new-tokens 64 ...]."""
    wanted, rest = _split(argv)
    settings = read_one(rest)
    if not wanted.prompts:
        raise ConfigError("no prompt is given", hint="say --prompt TEXT, once or more")
    SamplingParams(**wanted.sampling)  # a wrong word is told before anything is loaded
    with espalier.Engine(settings=settings) as engine:
        if wanted.chat:
            talks = [[{"role": "user", "content": prompt}] for prompt in wanted.prompts]
            replies = engine.chat(talks, wanted.sampling)
        else:
            replies = engine.generate(wanted.prompts, wanted.sampling)
    return "\n".join(_shown(reply, wanted) for reply in replies)


def option_lines() -> list[str]:
    """What `generate` takes beside the settings."""
    return [
        "--prompt TEXT                      to be continued; may be given several times; - reads it",
        "                                   from standard input",
        "--chat                             each prompt is a user's message, answered by the",
        "                                   model's own chat template",
        "--json                             print whole replies, a line of JSON each",
        *map(_option_line, (name for name in _FIELDS if name in _SAMPLING.values())),
    ]


def _option_line(field_name: str) -> str:
    """A word of the request: its default, and by what other words it is known."""
    first, *others = (f"--{word}" for word, meant in _SAMPLING.items() if meant == field_name)
    default = _FIELDS[field_name]
    meant = "" if default in (None, ()) else f"default {msgspec.json.encode(default).decode()}"
    also = f"also {', '.join(others)}" if others else ""
    return f"{first:34} {'; '.join(filter(None, (meant, also)))}".rstrip()


def _split(argv: Sequence[str]) -> tuple[_Wanted, list[str]]:
    """Take out what is said of the request; the rest are settings."""
    wanted, rest, arguments = _Wanted(), list[str](), list(argv)
    while arguments:
        word = arguments.pop(0)
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or (name not in _SAMPLING and name not in _OWN):
            rest.append(word)
        elif name in ("chat", "json"):
            setattr(wanted, name, True)
        elif isinstance(_FIELDS.get(_SAMPLING.get(name, "")), bool) and not given:
            wanted.sampling[_SAMPLING[name]] = True
        else:
            value = value if given else _next(arguments, word)
            if name == "prompt":
                wanted.prompts.append(sys.stdin.read() if value == "-" else value)
            else:
                wanted.sampling[_SAMPLING[name]] = _value(name, value)
    return wanted, rest


_OWN = frozenset({"prompt", "chat", "json"})
_TEXTS = frozenset({"stop", "bad-words"})  # a plain word is itself, a list is JSON


def _next(arguments: list[str], word: str) -> str:
    if not arguments:
        raise ConfigError(f"{word} needs a value", hint=f"write {word} VALUE")
    return arguments.pop(0)


def _value(name: str, text: str) -> Any:
    """Numbers, lists and tables are JSON."""
    if name in _TEXTS and not text.startswith("["):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise ConfigError(
            f"--{name} = {text!r} is no JSON value", hint='write 0.7, true or ["a", "b"]'
        ) from None


def _shown(reply: dict[str, Any], wanted: _Wanted) -> str:
    end = reply["meta_info"]["finish_reason"]
    if end["type"] == "abort":
        log.error("a prompt was not finished: %s", end["message"])
    return msgspec.json.encode(reply).decode() if wanted.json else str(reply["text"])
