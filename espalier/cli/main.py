"""`espalier COMMAND ...`: the commands, and the one place where an error becomes an exit code.

What a user can put right is one message on standard error and exit code 2, without a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import espalier
from espalier.cli import explain, generate, serve
from espalier.config.cli import help_text
from espalier.errors import ConfigError, EspalierError, UnknownName

Command: TypeAlias = Callable[[Sequence[str]], str]  # arguments in, what to print out

USAGE_ERROR, INTERRUPTED = 2, 130
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
        sys.stdout.write(f"{_run(list(sys.argv[1:] if argv is None else argv))}\n")
    except EspalierError as error:
        sys.stderr.write(f"espalier: {error}\n")
        return USAGE_ERROR if isinstance(error, ConfigError) else 1
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


def _purpose(command: Command) -> str:
    return (command.__doc__ or "").partition("\n")[0].rstrip(".")
