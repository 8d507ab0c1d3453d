"""Conversations: plain values of the right shape go through, and everything else is named."""

from __future__ import annotations

from typing import Any

import pytest

from espalier.config.limits import LIMITS
from espalier.errors import RequestError
from espalier.front.talks import chats
from espalier.tokenizer.chat import ChatTemplate
from espalier.tokenizer.hf import HfTokenizer
from tests.bad_inputs import HUGE, nested

USER = {"role": "user", "content": "hi"}


class Loud:
    def __repr__(self) -> str:
        raise ValueError("not to be shown")


def itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def folded(times: int) -> list[Any]:
    """Twice as many values each time, in hardly any memory."""
    made: list[Any] = []
    for _ in range(times):
        made = [made, made]
    return made


BAD: dict[str, tuple[str, Any]] = {
    "nothing": ("messages", None),
    "a number": ("messages", 7),
    "text": ("messages", "hi"),
    "a message alone": ("messages", USER),
    "an empty list": ("messages", []),
    "an empty conversation": ("messages[1]", [[USER], []]),
    "text among messages": ("messages[1]", [USER, "hi"]),
    "a list among messages": ("messages[1]", [USER, [USER]]),
    "a message among conversations": ("messages[1]", [[USER], USER]),
    "too many": ("messages", [USER] * (LIMITS.max_messages + 1)),
    "no role": ("messages[0].role", [{"content": "x"}]),
    "another role": ("messages[1].role", [USER, {"role": "wizard", "content": "x"}]),
    "a role that is no text": ("messages[0].role", [{"role": Loud(), "content": "x"}]),
    "a huge role": ("messages[0].role", [{"role": HUGE, "content": "x"}]),
    "no content": ("content", [{"role": "user"}]),
    "bytes": ("messages[0].content", [{"role": "user", "content": b"x"}]),
    "an object": ("messages[0].content", [{"role": "user", "content": object()}]),
    "a huge number": ("messages[0].content", [{"role": "user", "content": HUGE}]),
    "half a pair": ("messages[0].content", [{"role": "user", "content": "\ud800"}]),
    "half a pair in a key": ("messages[0]", [{**USER, "\ud800": 1}]),
    "a key that is no text": ("messages[0]", [{**USER, 1: 2}]),
    "a key that cannot be shown": ("messages[0]", [{**USER, Loud(): 2}]),
    "deeply nested": ("messages[0].content[0]", [{"role": "user", "content": nested(3000)}]),
    "endless": ("messages[0].content[0]", [{"role": "user", "content": itself()}]),
    "folded": ("messages[0].x[0]", [{**USER, "x": folded(60)}]),
    "calls that are no list": ("messages[0].tool_calls", [{**USER, "tool_calls": 7}]),
    "an image": ("content[0]", [{"role": "user", "content": [{"type": "image_url"}]}]),
    "too much text": (
        "messages[0].content[1]",
        [{"role": "user", "content": ["x" * (LIMITS.max_prompt_characters // 2)] * 2}],
    ),
}


def encoded(tokenizer: HfTokenizer, messages: Any) -> None:
    for chat in chats(messages, None, True, False, None)[0]:
        ChatTemplate(tokenizer).tokens(chat)


@pytest.mark.parametrize("kind", BAD)
def test_a_conversation_of_a_wrong_shape_is_refused_by_name(
    kind: str, tokenizer: HfTokenizer
) -> None:
    name, messages = BAD[kind]
    with pytest.raises(RequestError) as refused:
        encoded(tokenizer, messages)
    assert name in refused.value.message
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tools", {"tools": [{"type": "function"}]}),
        ("tools", {"tools": 7}),
        ("add_generation_prompt", {"add_generation_prompt": "yes"}),
        ("continue_final_message", {"continue_final_message": 1}),
        ("chat_template_kwargs", {"options": 7}),
        ("chat_template_kwargs", {"options": [["a", 1]]}),
        ("chat_template_kwargs", {"options": {1: 1, "a": 2}}),
        ("chat_template_kwargs", {"options": {HUGE: 1}}),
        ("chat_template_kwargs", {"options": {"messages": []}}),
        ("chat_template_kwargs.thinking", {"options": {"thinking": itself()}}),
        ("chat_template_kwargs.thinking", {"options": {"thinking": Loud()}}),
    ],
)
def test_a_word_beside_the_messages_is_refused_by_name(
    name: str, words: dict[str, Any], tokenizer: HfTokenizer
) -> None:
    given = {
        "tools": None,
        "add_generation_prompt": True,
        "continue_final_message": False,
        "options": None,
        **words,
    }
    with pytest.raises(RequestError) as refused:
        ChatTemplate(tokenizer).tokens(chats([USER], *given.values())[0][0])
    assert name in refused.value.message


def test_one_conversation_and_several_are_told_apart() -> None:
    one, several = chats([USER], None, True, False, None)
    assert ([chat.messages for chat in one], several) == ([[USER]], False)
    two, several = chats([[USER], (USER, USER)], [], True, False, {})
    assert ([chat.messages for chat in two], several) == ([[USER], [USER, USER]], True)


def test_a_message_that_goes_on_is_followed_by_no_other() -> None:
    ((chat,), _) = chats([USER], None, True, True, None)
    assert chat.continue_final_message
    assert not chat.add_generation_prompt


def test_what_the_caller_changes_later_is_not_seen() -> None:
    message = {"role": "user", "content": ["a", "b"]}
    ((chat,), _) = chats([message], None, True, False, None)
    message["content"].append("c")
    assert chat.messages[0]["content"] == ["a", "b"]
