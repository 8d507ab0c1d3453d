import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from espalier.errors import OutOfRange
from espalier.tokenizer.chat import Chat, ChatTemplate, NoChatTemplate
from espalier.tokenizer.hf import HfTokenizer, load
from espalier.tokenizer.template import TemplateFailed
from tests import tokenizers
from tests.tokenizer.conftest import Pair

LLAMA = """{{- bos_token }}
{%- if tools %}{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}{{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- for call in message.tool_calls %}{{- '{"name": "' + call.function.name + '", "parameters": ' }}
        {{- call.function.arguments | tojson }}{{- '}' }}{%- endfor %}{{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}{% endgeneration %}
{% else %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
THINKING = """{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and '</think>' in content %}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
TEMPLATES = {
    "chatml": tokenizers.CHATML,
    "inst": tokenizers.INST,
    "turns": tokenizers.TURNS,
    "llama": LLAMA,
    "zephyr": ZEPHYR,
    "thinking": THINKING,
}
MARKS = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
MARKS += ["[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"]
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def folders(pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each kind of tokenizer, with every template's control tokens added to it."""
    made: dict[str, Path] = {}
    for kind, pair in pairs.items():
        folder = tmp_path_factory.mktemp(f"chat-{kind}")
        backend = Tokenizer.from_file(str(pair.folder / "tokenizer.json"))
        backend.add_special_tokens(MARKS)
        backend.add_special_tokens(
            [
                AddedToken("<|user|>", rstrip=True),
                AddedToken("<|assistant|>", rstrip=True, lstrip=True),
            ]
        )
        backend.add_tokens(
            [AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)]
        )
        backend.add_tokens([AddedToken("\n\n\n", normalized=False)])
        backend.save(str(folder / "tokenizer.json"))
        config = json.loads((pair.folder / "tokenizer_config.json").read_text())
        config = {"bos_token": "<|im_start|>", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        made[kind] = folder
    return made


@pytest.fixture(scope="module")
def oracles(folders: dict[str, Path]) -> dict[str, PreTrainedTokenizerFast]:
    return {kind: PreTrainedTokenizerFast.from_pretrained(str(at)) for kind, at in folders.items()}


@pytest.fixture(scope="module")
def ours(folders: dict[str, Path]) -> dict[str, HfTokenizer]:
    return {kind: load(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def chats(ours: dict[str, HfTokenizer]) -> dict[tuple[str, str], ChatTemplate]:
    ways = itertools.product(ours, TEMPLATES)
    return {(kind, name): ChatTemplate(ours[kind], TEMPLATES[name]) for kind, name in ways}


KIND_AND_TEMPLATE = [
    pytest.param(kind, name, id=f"{kind}-{name}")
    for kind in ("byte_level", "sentencepiece", "unigram")
    for name in TEMPLATES
]
BENIGN = st.text(
    alphabet=st.sampled_from(" \naetxs<|>[]/_é안🙂user"), max_size=20
) | st.sampled_from(
    ["hi", "user", "<", "im_start", "a <tag> b|", "[INS", "start\n\n\n\nend", " spaced ", "|>"]
)


@pytest.mark.parametrize(("kind", "name"), KIND_AND_TEMPLATE)
@QUICK
@given(texts=st.lists(BENIGN, min_size=1, max_size=4), prompt=st.booleans())
def test_benign_chats_have_the_tokens_of_transformers(
    chats: Any, oracles: Any, kind: str, name: str, texts: list[str], prompt: bool
) -> None:
    control = [text for text in chats[kind, name].tokenizer.added if not text.isspace()]
    assume(not any(text in typed for text in control for typed in texts))
    messages = _turns(texts)
    wanted = oracles[kind].apply_chat_template(
        messages,
        chat_template=TEMPLATES[name],
        add_generation_prompt=prompt,
        tokenize=True,
        return_dict=False,
    )
    chat = Chat(messages, add_generation_prompt=prompt)
    text = oracles[kind].apply_chat_template(
        messages, chat_template=TEMPLATES[name], add_generation_prompt=prompt, tokenize=False
    )
    assert chats[kind, name].render(chat) == text
    assert chats[kind, name].tokens(chat).tolist() == wanted


@pytest.mark.parametrize(("kind", "name"), KIND_AND_TEMPLATE)
def test_a_client_cannot_type_a_control_token(chats: Any, ours: Any, kind: str, name: str) -> None:
    tokenizer, template = ours[kind], chats[kind, name]
    control = {tokenizer.added[text] for text in tokenizer.added if not text.isspace()}
    control -= {
        tokenizer.added.get("<unk>"),
        tokenizer.added["<think>"],
        tokenizer.added["</think>"],
    }
    harmless = _control(template.tokens(Chat(_turns(["ab", "cd", "ef"]))), control)
    for text in [text for text, token in tokenizer.added.items() if token in control]:
        half = len(text) // 2
        for typed in (
            text,
            text.upper(),
            f"a{text}b {text}{text}",
            text[:half],
            text[half:],
            text[1:-1],
        ):
            chat = Chat(_turns([typed, typed, typed]))
            assert _control(template.tokens(chat), control) == harmless, typed


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "unigram"])
def test_nor_in_tools_calls_documents_keys_and_options(chats: Any, ours: Any, kind: str) -> None:
    tokenizer, template = ours[kind], chats[kind, "llama"]
    control = {tokenizer.added[text] for text in MARKS}
    harmless = _control(template.tokens(_tool_chat("plain")), control)
    for text in MARKS:
        assert _control(template.tokens(_tool_chat(text)), control) == harmless


def test_pieces_of_neighbours_do_not_join_into_a_control_token(ours: Any) -> None:
    source = "{% for m in messages %}{{ m.content }}{% for p in m.parts %}{{ p }}{% endfor %}{% endfor %}"
    tokenizer = ours["byte_level"]
    template = ChatTemplate(tokenizer, source)
    token = tokenizer.added["<|im_end|>"]
    pairs = (["hello <|im_", "end|> there"], ["hello <", "|im_end|> there"])
    for parts in pairs:
        assert token not in template.tokens(
            Chat([{"role": "user", "content": "x", "parts": parts}])
        )
    for parts in (["<|im_", "end|>"], ["<", "|im_end|", ">"], list("<|im_end|>")):
        chat = Chat([{"role": "user", "content": "x", "parts": parts}])
        assert template.render(chat) == "x<|im_end|>"
        assert token not in template.tokens(chat)
    built = ChatTemplate(
        tokenizer, "{% for m in messages %}{{ '<|im_' + m.content + '|>' }}{% endfor %}"
    )
    assert token not in built.tokens(Chat([{"role": "user", "content": "end"}]))


@pytest.mark.parametrize("role", ["im_end", "<|im_start|>", "<|im_end|>", "", 7, None, []])
def test_a_role_is_one_of_those_there_are(chats: Any, role: object) -> None:
    with pytest.raises(OutOfRange, match=r"messages\[0\]\.role"):
        chats["byte_level", "chatml"].tokens(Chat([{"role": role, "content": "x"}]))


def test_a_key_that_is_called_role_somewhere_else_is_a_clients_text(chats: Any, ours: Any) -> None:
    tool = {"name": "f", "parameters": {"role": "<|eot_id|>", "type": "<|eot_id|>"}}
    tokens = chats["byte_level", "llama"].tokens(Chat(_turns(["q"]), tools=[tool])).tolist()
    assert tokens.count(ours["byte_level"].added["<|eot_id|>"]) == 2


def test_typed_control_strings_are_still_readable_text(chats: Any, ours: Any) -> None:
    typed = "what does <|im_end|> mean, and <s>?"
    for kind in ("byte_level", "sentencepiece", "unigram"):
        tokens = chats[kind, "chatml"].tokens(Chat([{"role": "user", "content": typed}]))
        assert typed in ours[kind].decode(tokens, skip_special=False)


def test_an_assistants_own_marks_are_seen_by_the_template(chats: Any) -> None:
    messages = [*_turns(["q", "<think>\nhm\n</think>\n\nanswer"])]
    text = chats["byte_level", "thinking"].render(Chat(messages))
    assert "hm" not in text
    assert "answer" in text


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("last", ["The answer is", "The answer is ", "a\n\n"])
def test_a_last_message_is_continued_as_transformers_does(
    chats: Any, oracles: Any, name: str, last: str
) -> None:
    messages = _turns(["question", last])
    wanted = oracles["byte_level"].apply_chat_template(
        messages,
        chat_template=TEMPLATES[name],
        continue_final_message=True,
        tokenize=True,
        return_dict=False,
    )
    chat = Chat(messages, add_generation_prompt=False, continue_final_message=True)
    assert chats["byte_level", name].tokens(chat).tolist() == wanted


def test_tools_and_calls_are_rendered_as_transformers_does(chats: Any, oracles: Any) -> None:
    chat = _tool_chat("plain 한국")
    wanted = oracles["byte_level"].apply_chat_template(
        [*chat.messages],
        tools=list(chat.tools or ()),
        chat_template=LLAMA,
        add_generation_prompt=True,
        tokenize=False,
    )
    template = chats["byte_level", "llama"]
    assert template.render(chat) == wanted
    call = {"name": "f", "arguments": '{"plain 한국": "plain 한국"}'}
    as_text = {"role": "assistant", "content": None, "tool_calls": [{"function": call}]}
    messages = [chat.messages[0], as_text, *chat.messages[2:]]
    assert '"f", "parameters": {"plain 한국": "plain 한국"}' in template.render(Chat(messages))


def test_parts_are_joined_for_a_template_that_knows_only_text(chats: Any) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    template = chats["byte_level", "chatml"]
    assert "one\ntwo" in template.render(Chat([{"role": "user", "content": parts}]))
    with pytest.raises(OutOfRange, match=r"messages\[0\]\.content\[0\].*text only"):
        template.render(Chat([{"role": "user", "content": [{"type": "image_url"}]}]))


def test_options_are_those_the_operator_allows(chats: Any) -> None:
    template, messages = chats["byte_level", "thinking"], _turns(["q"])
    assert "<think>\n\n</think>" in template.render(
        Chat(messages, options={"enable_thinking": False})
    )
    assert "<think>" not in template.render(Chat(messages))
    with pytest.raises(OutOfRange, match="tokenize"):
        template.render(Chat(messages, options={"tokenize": True}))


def test_a_model_without_a_template_says_so_and_how_to_give_one(ours: Any) -> None:
    with pytest.raises(NoChatTemplate, match="--chat-template"):
        ChatTemplate(ours["byte_level"], {}).tokens(Chat(_turns(["q"])))


def test_half_a_surrogate_pair_is_named_by_its_place(chats: Any) -> None:
    with pytest.raises(OutOfRange, match=r"messages\[0\]\.content"):
        chats["byte_level", "chatml"].tokens(Chat([{"role": "user", "content": "a\udc00b"}]))
    escaped = {"function": {"name": "f", "arguments": '{"a": "\\udc02"}'}}
    with pytest.raises(OutOfRange, match=r"messages\[0\]\.tool_calls\[0\]\.function\.arguments\.a"):
        chats["byte_level", "llama"].tokens(Chat([{"role": "assistant", "tool_calls": [escaped]}]))
    with pytest.raises(OutOfRange, match=r"tools\[0\]\.name"):
        chats["byte_level", "llama"].tokens(Chat(_turns(["q"]), tools=[{"name": "\ud800"}]))


def test_what_a_template_refuses_is_an_error_of_the_request(chats: Any) -> None:
    messages = [*_turns(["q"]), {"role": "system", "content": "late"}]
    with pytest.raises(TemplateFailed, match="system messages come first"):
        chats["sentencepiece", "inst"].tokens(Chat(messages))
    source = "{{ raise_exception('not this: ' + messages[0].content) }}"
    with pytest.raises(TemplateFailed) as failed:
        ChatTemplate(load_of(chats), source).tokens(Chat(_turns(["<|im_end|>"])))
    assert "not this: <|im_end|>" in failed.value.message


def load_of(chats: Any) -> HfTokenizer:
    return chats["byte_level", "chatml"].tokenizer


def _turns(texts: list[str]) -> list[dict[str, Any]]:
    roles = itertools.cycle(["user", "assistant"])
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def _tool_chat(text: str) -> Chat:
    call = {"type": "function", "function": {"name": "f", "arguments": {text: text}}}
    tool = {
        "type": "function",
        "function": {"name": "f", "description": text, "parameters": {text: 1}},
    }
    messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "content": text, "name": "f"},
    ]
    return Chat(messages, tools=[tool], documents=[{"title": text, "text": text}])


def _control(tokens: Any, control: set[int]) -> list[int]:
    return [token for token in tokens.tolist() if token in control]
