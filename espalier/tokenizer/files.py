"""What a checkpoint's folder says about its tokenizer, beside tokenizer.json itself.

Read from tokenizer_config.json, special_tokens_map.json and the template files. Names of classes
and code in them mean nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from espalier.errors import CheckpointError

CONFIG, SPECIAL_MAP = "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
LEGACY_TEMPLATE = "chat_template.json"
DEFAULT = "default"
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class TokenizerFacts:
    """The settings that matter to encoding, decoding and templates."""

    names: Mapping[str, str] = field(default_factory=dict)  # bos_token: "<s>"
    add_bos: bool | None = None  # None: as tokenizer.json says
    add_eos: bool | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    special: frozenset[str] = frozenset()  # texts that are special, whatever tokenizer.json says

    def completed(self, other: TokenizerFacts) -> TokenizerFacts:
        """These facts, and where they are silent the `other`'s."""
        return TokenizerFacts(
            names={**other.names, **self.names},
            add_bos=other.add_bos if self.add_bos is None else self.add_bos,
            add_eos=other.add_eos if self.add_eos is None else self.add_eos,
            templates=self.templates or other.templates,
            special=self.special | other.special,
        )


def read_facts(folder: Path) -> TokenizerFacts:
    config = read_json(folder / CONFIG)
    special_map = read_json(folder / SPECIAL_MAP)
    names = _names({**special_map, **config})
    declared = config.get("added_tokens_decoder") or {}
    special = {str(token["content"]) for token in declared.values() if token.get("special")}
    return TokenizerFacts(
        names=names,
        add_bos=config.get("add_bos_token"),
        add_eos=config.get("add_eos_token"),
        templates={**_inline(config.get("chat_template")), **_in_files(folder)},
        special=frozenset(special | set(names.values())),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A file's object; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error


def _names(settings: Mapping[str, Any]) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in NAMES:
        value = settings.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            names[f"{name}_token"] = text
    return names


def _inline(template: Any) -> dict[str, str]:
    match template:
        case str():
            return {DEFAULT: template}
        case list():
            return {str(item["name"]): str(item["template"]) for item in template}
        case _:
            return {}


def _in_files(folder: Path) -> dict[str, str]:
    templates = _inline(read_json(folder / LEGACY_TEMPLATE).get("chat_template"))
    for path in sorted((folder / TEMPLATES).glob("*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    if (folder / TEMPLATE).is_file():
        templates[DEFAULT] = (folder / TEMPLATE).read_text(encoding="utf-8")
    return templates
