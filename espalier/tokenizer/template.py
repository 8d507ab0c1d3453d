"""Chat templates as programs: compiled once, run in a sandbox, within limits.

A template comes from the checkpoint or the operator, never from a request; still it is somebody
else's program. It runs in jinja's immutable sandbox with what Hugging Face defines for templates
(`raise_exception`, `strftime_now`, `tojson`, loop controls, `generation`). Every turn of a loop and
every call of a macro is counted, every text that is put together is measured, and the whole has a
deadline, so a template that never ends, or swells, is an error of its request.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.filters
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from espalier.errors import ConfigError, RequestError
from espalier.tokenizer.marks import MARKS, unmarked

MAX_OUTPUT = 16 << 20  # characters; a context of a million tokens has some four million
MAX_TURNS = 200_000  # of all loops and macros together
MAX_RANGE = 100_000
MAX_SECONDS = 5.0
METER = "_espalier_meter"
MAX_MESSAGE = 300  # characters of what a template says that a client is told
LONG_NUMBER = re.compile(r"[0-9]{6}|\*")  # a width in a format string
HINT = "the template is the checkpoint's, or that of --chat-template"


class TemplateFailed(RequestError):
    """The template refused these messages, or failed on them."""


class Meter:
    """What one run may still use."""

    def __init__(self) -> None:
        self._turns = MAX_TURNS
        self._deadline = time.monotonic() + MAX_SECONDS

    def turn(self) -> str:
        """Count a turn of a loop."""
        self._turns -= 1
        if self._turns < 0:
            raise SecurityError(f"it takes more than {MAX_TURNS} steps")
        if time.monotonic() > self._deadline:
            raise SecurityError(f"it takes longer than {MAX_SECONDS} s")
        return ""

    @staticmethod
    def joined(*parts: object) -> str:
        """What `~` does, measured before it is done."""
        texts = [str(part) for part in parts]
        measured(sum(map(len, texts)))
        return "".join(texts)


def measured(size: int) -> None:
    if size > MAX_OUTPUT:
        raise SecurityError(f"it makes a text of more than {MAX_OUTPUT} characters")


class Template:
    """One compiled template. Safe to run from several threads."""

    def __init__(self, source: str) -> None:
        try:
            tree = _environment().parse(source)
            self.literals = _literals(tree)
            self.takes_parts = _iterates_content(tree)
            self.constants = frozenset(_strings(tree))
            code = _environment().compile(_Metered().visit(tree))
        except jinja2.TemplateError as error:
            raise ConfigError(f"the chat template is not valid: {error}", hint=HINT) from error
        self._template = jinja2.Template.from_code(_environment(), code, _environment().globals)

    def render(self, values: Mapping[str, Any]) -> str:
        """The template's text for these values."""
        shown: list[str] = []
        size = 0
        try:
            for block in self._template.generate(**values, **{METER: Meter()}):
                size += len(block)
                measured(size)
                shown.append(block)
        except jinja2.TemplateError as error:
            raise _failed("says", error) from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise _failed("failed", error) from error
        except (MemoryError, RecursionError) as error:
            raise TemplateFailed("the chat template grew too large", hint=HINT) from error
        return "".join(shown)


def _failed(what: str, error: Exception) -> TemplateFailed:
    said = unmarked(str(error))[:MAX_MESSAGE]
    return TemplateFailed(f"the chat template {what}: {said}", hint=HINT)


@lru_cache(maxsize=32)
def compiled(source: str) -> Template:
    """The template of this source, compiled once."""
    return Template(source)


def literal_text(source: str) -> str:
    """All that a template writes itself: its text and its string constants."""
    return compiled(source).literals


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with results measured before they are made."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("powers are not for templates")
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            measured(len(left) + len(right))
        if operator == "*":
            measured(_size(left) * _size(right))
        if operator == "%" and isinstance(left, str) and LONG_NUMBER.search(left):
            raise SecurityError("a format's width is too large")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):  # 'x'.ljust(10**9)
            if isinstance(value, int):
                measured(value)
        return super().call(context, target, *args, **kwargs)


def _size(value: Any) -> int:
    """How much longer a product with this is."""
    if isinstance(value, int):
        return max(value, 1)
    return max(len(value), 1) if isinstance(value, (str, list, tuple)) else 1


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Metered(NodeTransformer):
    """Has every loop, macro and `~` ask the meter."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, _turn())
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        node.body.insert(0, _turn())
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _metered("joined", node.nodes)


def _turn() -> nodes.ExprStmt:
    return nodes.ExprStmt(_metered("turn", []))


def _metered(method: str, arguments: list[nodes.Expr]) -> nodes.Call:
    meter = nodes.Getattr(nodes.Name(METER, "load"), method, "load")
    return nodes.Call(meter, arguments, [], None, None)


class _Namespace(Namespace):
    """Jinja's namespace, without names that begin with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        for name in dict(*rest, **values):
            _public(name)
        Namespace.__init__(self, *rest, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.filters["center"] = _center
    environment.filters["indent"] = _indent
    environment.filters["format"] = _format
    del environment.globals["lipsum"]
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_Namespace
    )
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Hugging Face has it: nothing escaped for HTML, and Unicode as it is."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if not ensure_ascii:
        return text
    return "".join(
        letter if letter.isascii() or letter in MARKS else json.dumps(letter)[1:-1]
        for letter in text
    )


def _center(value: str, width: int = 80) -> str:
    measured(width)
    return str(value).center(width)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    step = len(width) if isinstance(width, str) else width
    measured(step * (str(value).count("\n") + 1))
    return str(jinja2.filters.do_indent(value, width, first, blank))


def _format(value: str, *arguments: Any, **named: Any) -> str:
    if LONG_NUMBER.search(value):
        raise SecurityError("a format's width is too large")
    return str(value) % (named or arguments)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


def _strings(tree: nodes.Node) -> list[str]:
    return [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]


def _literals(tree: nodes.Template) -> str:
    """Joined by a character no token has, so that nothing is found across two of them."""
    return "\0".join([*(data.data for data in tree.find_all(nodes.TemplateData)), *_strings(tree)])


def _iterates_content(tree: nodes.Template) -> bool:
    """Whether the template walks through a message's content: then it takes parts, not only text."""
    return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node) -> bool:
    match node:
        case nodes.Getattr(attr="content") | nodes.Name(name="content"):
            return True
        case nodes.Getitem(arg=nodes.Const(value="content")):
            return True
        case nodes.Filter(node=nodes.Node() as inner):
            return _is_content(inner)
        case _:
            return False
