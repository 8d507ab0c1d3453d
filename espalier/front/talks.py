"""`Engine.chat`'s arguments as conversations: of the right shape, and plain values all through.

Templates run over these values, so nothing else than JSON has may stand in them: no objects with
methods of their own, nothing nested without end, no more of it than a prompt may hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from espalier.config.limits import LIMITS
from espalier.errors import RequestError
from espalier.front.checks import flag, refused
from espalier.tokenizer.chat import Chat

_MOST_BITS = 128  # of a whole number


def chats(
    messages: Any, tools: Any, add_generation_prompt: Any, continue_final_message: Any, options: Any
) -> tuple[list[Chat], bool]:
    """The conversations, checked, and whether it was a list of them. Raises RequestError."""
    if tools is not None and not (isinstance(tools, list | tuple) and not tools):
        raise RequestError("tools are not supported", hint="describe them in a message")
    if options is not None and not isinstance(options, Mapping):
        raise refused("chat_template_kwargs", options, "must be a dict")
    begins = flag("add_generation_prompt", add_generation_prompt)
    goes_on = flag("continue_final_message", continue_final_message)
    known = _Plain().copy("chat_template_kwargs", options or {})
    talks, several = _conversations(messages)
    made = [
        Chat(
            messages=talk,
            add_generation_prompt=begins and not goes_on,
            continue_final_message=goes_on,
            options=known,
        )
        for talk in talks
    ]
    return made, several


def _conversations(messages: Any) -> tuple[list[list[Mapping[str, Any]]], bool]:
    if not isinstance(messages, list | tuple) or not messages:
        raise refused("messages", messages, "must be a list that is not empty")
    several = isinstance(messages[0], list | tuple)
    talks = messages if several else [messages]
    names = [f"messages[{place}]" if several else "messages" for place in range(len(talks))]
    return [_conversation(name, talk) for name, talk in zip(names, talks, strict=True)], several


def _conversation(name: str, talk: Any) -> list[Mapping[str, Any]]:
    if not isinstance(talk, list | tuple) or not talk:
        raise refused(name, talk, "must be a list that is not empty")
    if len(talk) > LIMITS.max_messages:
        raise refused(name, talk, f"at most {LIMITS.max_messages} messages")
    for at, message in enumerate(talk):
        if not isinstance(message, Mapping):
            raise refused(f"{name}[{at}]", message, "must be a dict with role and content")
    copied: list[Mapping[str, Any]] = _Plain().copy(name, talk)
    return copied


class _Plain:
    """Copies what JSON can hold, and counts it: a list that holds itself is never done."""

    def __init__(self) -> None:
        self._values = LIMITS.max_chat_values
        self._characters = LIMITS.max_prompt_characters

    def copy(self, name: str, value: Any, depth: int = 0) -> Any:
        self._values -= 1
        if depth > LIMITS.max_chat_depth:
            raise refused(name, value, f"at most {LIMITS.max_chat_depth} levels deep")
        if self._values < 0:
            raise refused(name, value, f"at most {LIMITS.max_chat_values} values in all")
        match value:
            case str():
                return self._text(name, value)
            case list() | tuple():
                return [
                    self.copy(f"{name}[{place}]", one, depth + 1) for place, one in enumerate(value)
                ]
            case Mapping():
                return {
                    self._key(name, key): self.copy(f"{name}.{key}", one, depth + 1)
                    for key, one in value.items()
                }
            case _:
                if not _is_single(value):
                    raise refused(name, value, "must be a plain value, as in JSON")
                return value

    def _key(self, name: str, key: Any) -> str:
        if not isinstance(key, str):
            raise refused(name, key, "its keys must be strings")
        return self._text(name, key)

    def _text(self, name: str, value: str) -> str:
        self._characters -= len(value)
        if self._characters < 0:
            raise refused(name, value, f"at most {LIMITS.max_prompt_characters} characters in all")
        return str(value)


def _is_single(value: Any) -> bool:
    """Nothing, a truth value or a number that can be written out."""
    if isinstance(value, int):
        return value.bit_length() <= _MOST_BITS
    return value is None or isinstance(value, float)
