"""`espalier COMMAND ...`: the commands, and the one place where an error becomes an exit code.

What a user can put right is one message on standard error and exit code 2, without a traceback.
Where the engine failed it is 1. A reader that has read enough (`espalier help | head`) is no error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

import espalier
from espalier.cli import explain, generate, serve
from espalier.config.cli import help_text
from espalier.errors import EngineError, EspalierError, UnknownName

Command: TypeAlias = Callable[[Sequence[str]], str]  # arguments in, what to print out

FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
_HELP = frozenset({"-h", "--help"})
_TITLE = "usage: espalier COMMAND [MODEL] [--setting value ...]"
_CONFIG = "Every setting is a flag. `--config FILE` reads them from YAML; flags win."


def version(argv: Sequence[str]) -> str:
    """Print the version."""
    del argv
    return f"espalier {espalier.__version__}"


def usage(argv: Sequence[str]) -> str:
    """Print this, with every setting."""
    del argv
    lines = [f"  {name:10} {_purpose(command)}" for name, command in COMMANDS.items()]
    options = [f"  {line}" for line in generate.option_lines()]
    return "\n".join(
        [_TITLE, "", *lines, "", "for generate:", *options, "", _CONFIG, "", help_text()]
    )


COMMANDS: Mapping[str, Command] = {
    "generate": generate.run,
    "plan": explain.plan,
    "explain": explain.explain,
    "serve": serve.run,
    "version": version,
    "help": usage,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit code."""
    try:
        _show(_run(list(sys.argv[1:] if argv is None else argv)))
    except EspalierError as error:
        sys.stderr.write(f"espalier: {error}\n")
        return FAILED if isinstance(error, EngineError) else USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _run(argv: list[str]) -> str:
    if not argv or _HELP.intersection(argv[:2]):
        return usage(argv)
    if argv[0] == "--version":
        return version(argv)
    # An image whose entry point takes flags directly means `serve`.
    name, rest = ("serve", argv) if argv[0].startswith("--") else (argv[0], argv[1:])
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    return COMMANDS[name](rest)


def _show(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Closed here, or the interpreter complains about it when it ends.
        with suppress(BrokenPipeError):
            sys.stdout.close()


def _purpose(command: Command) -> str:
    return (command.__doc__ or "").partition("\n")[0].rstrip(".")
