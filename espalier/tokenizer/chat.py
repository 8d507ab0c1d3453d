"""Chats to prompts: a model's own template, and nothing a client typed taken for control.

`ChatTemplate.tokens` is the way in. The client's strings are marked (`marks.py`), the template runs
(`template.py`), its result is cut where the template itself wrote control tokens, and the whole is
encoded at once (`guard.py`). For text that spells no control token the tokens are those of
`transformers`' `apply_chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from espalier.errors import OutOfRange, RequestError
from espalier.protocol.arrays import Ids
from espalier.tokenizer.base import Tokenizer, check_text
from espalier.tokenizer.control import control_texts
from espalier.tokenizer.files import DEFAULT
from espalier.tokenizer.marks import END, Marker, split, unmarked, whole_pattern
from espalier.tokenizer.template import TemplateFailed, compiled

TOOL_USE = "tool_use"  # the name of a second template that some checkpoints have
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
OPTIONS = frozenset(
    {"enable_thinking", "thinking", "reasoning_effort", "builtin_tools", "date_string"}
)
OPTIONS_HINT = "the operator allows more with --chat-template-options"
END_TAG = END + " "  # the space tells whether the template trims a message


class NoChatTemplate(RequestError):
    """The model has no chat template."""

    def __init__(self) -> None:
        super().__init__(
            "this model has no chat template",
            hint="use the completions endpoint, or start the server with --chat-template FILE",
        )


@dataclass(frozen=True)
class Chat:
    """What is to become a prompt: plain JSON values, as the client sent them."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False  # the model goes on inside the last message
    options: Mapping[str, Any] = field(default_factory=dict)  # a template's own: enable_thinking


class ChatTemplate:
    """A tokenizer's chat template. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: Mapping[str, str] | str | None = None,
        *,
        options: AbstractSet[str] = OPTIONS,
    ) -> None:
        """`templates` in place of the checkpoint's own; `options` are what a client may set."""
        if isinstance(templates, str):
            templates = {DEFAULT: templates}
        sources = tokenizer.templates if templates is None else templates
        self.tokenizer = tokenizer
        self._by_name = {name: compiled(source) for name, source in sources.items()}
        self._options = options
        self._names = tokenizer.special.names
        literals = "\0".join(template.literals for template in self._by_name.values())
        constants = ROLES.union(*(template.constants for template in self._by_name.values()))
        self._roles = {word for word in constants if word.isidentifier()}
        control = control_texts(tokenizer, literals)
        self._control = {text: tokenizer.added[text] for text in control}
        self._encoder = tokenizer.guarded(control)
        self._pattern = whole_pattern(control)
        special = {text for text in control if self._control[text] in tokenizer.special.ids}
        self._marker = Marker(control, constants)
        self._own_words = Marker(special, constants)  # for what an assistant said

    def tokens(self, chat: Chat) -> Ids:
        """The prompt's tokens."""
        return self._encoder.encode(split(self._marked(chat), self._control, self._pattern))

    def render(self, chat: Chat) -> str:
        """The prompt as text, to be read: encoding it would take typed control strings for real."""
        return unmarked(self._marked(chat))

    def _marked(self, chat: Chat) -> str:
        check_strings(chat.messages, "messages")
        check_strings(chat.tools, "tools")
        check_strings(chat.documents, "documents")
        check_strings(chat.options, "chat_template_kwargs")
        template = self._by_name.get(TOOL_USE) if chat.tools else None
        template = template or self._by_name.get(DEFAULT)
        if template is None:
            raise NoChatTemplate
        messages = [
            self._message(message, f"messages[{place}]", parts=template.takes_parts)
            for place, message in enumerate(chat.messages)
        ]
        self._check(chat)
        if chat.continue_final_message:
            messages[-1] = _ended(messages[-1])
        text = template.render(
            {
                **self._names,
                **self._marker.marked(chat.options),
                "messages": messages,
                "tools": self._marker.marked(chat.tools) if chat.tools else None,
                "documents": self._marker.marked(chat.documents) if chat.documents else None,
                "add_generation_prompt": chat.add_generation_prompt,
            }
        )
        return _cut(text) if chat.continue_final_message else text

    def _check(self, chat: Chat) -> None:
        if not chat.messages:
            raise OutOfRange("messages", [], "a chat has at least one message")
        if chat.continue_final_message and chat.add_generation_prompt:
            raise OutOfRange(
                "continue_final_message",
                True,
                "the last message cannot go on and a new one begin",
                hint="set add_generation_prompt to false",
            )
        unknown = sorted(set(chat.options) - self._options)
        if unknown:
            raise OutOfRange("chat_template_kwargs", unknown[0], "not allowed", hint=OPTIONS_HINT)

    def _message(self, message: Mapping[str, Any], where: str, *, parts: bool) -> dict[str, Any]:
        """A message as templates want it, its strings marked."""
        role = message.get("role")
        if not isinstance(role, str) or role not in self._roles:
            raise OutOfRange(f"{where}.role", role, f"one of {', '.join(sorted(ROLES))}")
        plain = {key: value for key, value in message.items() if value is not None}
        if isinstance(plain.get("content"), list) and not parts:
            plain["content"] = _joined(plain["content"], f"{where}.content")
        if plain.get("tool_calls"):
            plain["tool_calls"] = _calls(plain["tool_calls"], f"{where}.tool_calls")
        marker = self._own_words if role == "assistant" else self._marker
        marked: dict[str, Any] = marker.marked(_with_reasoning(plain))
        # Templates compare a role and build control tokens of it, so it is checked instead of marked.
        return {**marked, "role": role}


def check_strings(value: Any, where: str) -> None:
    """Refuse JSON with a string that is no text, and say where it stands."""
    match value:
        case str():
            check_text(value, where)
        case Mapping():
            for key, item in value.items():
                check_text(str(key), f"{where}: a key")
                check_strings(item, f"{where}.{key}")
        case list() | tuple():
            for place, item in enumerate(value):
                check_strings(item, f"{where}[{place}]")
        case _:  # numbers, booleans, null
            pass


def _joined(content: Sequence[Any], where: str) -> str:
    """Parts as one text, for a template that knows only text."""
    texts: list[str] = []
    for place, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise OutOfRange(
                f"{where}[{place}]", part, "this model's chat template takes text only"
            )
        texts.append(text)
    return "\n".join(texts)


def _calls(calls: Any, where: str) -> list[Any]:
    if not isinstance(calls, list | tuple):
        raise OutOfRange(where, calls, "must be a list")
    return [_call(call, f"{where}[{at}]") for at, call in enumerate(calls)]


def _call(call: Any, where: str) -> Any:
    """A tool call with its arguments as an object: the API sends them as JSON in a string."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    check_strings(arguments, f"{where}.function.arguments")  # JSON's escapes can spell anything
    return {**call, "function": {**function, "arguments": arguments}}


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The reasoning under each name that templates read it by."""
    names = ("reasoning_content", "thinking", "reasoning")
    said = next((message[name] for name in names if message.get(name) is not None), None)
    if said is None:
        return message
    return {"thinking": said, **message, "reasoning_content": said}


def _ended(message: dict[str, Any]) -> dict[str, Any]:
    """The message with a tag at its end, to find where the template puts it."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + END_TAG}
    if isinstance(content, list):
        for place in reversed(range(len(content))):
            part = content[place]
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                tagged = {**part, "text": part["text"] + END_TAG}
                return {**message, "content": [*content[:place], tagged, *content[place + 1 :]]}
    raise OutOfRange("continue_final_message", True, "the last message has no text to go on with")


def _cut(text: str) -> str:
    """The rendered text up to the end of the last message's own."""
    place = text.rfind(END)
    if place < 0:
        raise TemplateFailed("the chat template leaves out the last message, which was to go on")
    kept = text[:place]
    return kept if text.startswith(END_TAG, place) else kept.rstrip()
