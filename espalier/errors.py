"""Every error a user can meet, and what to do about it.

`RequestError` is the caller's and becomes a 4xx; `EngineError` is ours and becomes a 5xx;
`ConfigError` stops the start-up. Whoever maps them goes by type and never reads a message.
A broken invariant is none of these: it is an `assert`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_SHOWN = 64  # characters of a client's value that a message repeats


class EspalierError(Exception):
    """Base of all errors; `hint` is what the reader can do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)
        self.message = message
        self.hint = hint


class ConfigError(EspalierError):
    """The settings cannot work together, or on this machine."""


class RequestError(EspalierError):
    """This request cannot be served as asked; others can."""


class EngineError(EspalierError):
    """The engine failed; the request may be sent again."""


class UnknownName(ConfigError):
    """A name was given that no registry entry answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
        super().__init__(f"no {kind} is called {name!r}", hint=hint)


class CheckpointError(ConfigError):
    """A checkpoint's files are missing, damaged or not what they say."""


class NotBuilt(ConfigError):
    """Asked for by a name we know, and not supported; the hint is a way out."""


class OutOfRange(RequestError):
    """A parameter's value cannot be used; names the parameter and the value."""

    def __init__(self, parameter: str, value: object, wanted: str, *, hint: str = "") -> None:
        shown = repr(value)
        if len(shown) > MAX_SHOWN:
            shown = shown[:MAX_SHOWN] + "..."
        super().__init__(f"{parameter} = {shown}: {wanted}", hint=hint)
        self.parameter = parameter
        self.wanted = wanted


class ContextTooLong(RequestError):
    """Prompt and completion do not fit the context together."""

    def __init__(self, *, prompt: int, completion: int, limit: int) -> None:
        room = limit - prompt
        super().__init__(
            f"{prompt} prompt tokens and {completion} to generate exceed the context of {limit}",
            hint=f"set max_tokens to at most {room}" if room > 0 else "shorten the prompt",
        )
        self.prompt, self.completion, self.limit = prompt, completion, limit


class QueueFull(EngineError):
    """Too many requests wait already; this one was not taken."""

    def __init__(self, *, waiting: int, limit: int, what: str = "requests") -> None:
        super().__init__(
            f"{waiting} {what} are waiting and the queue takes {limit}", hint="try again later"
        )


class NumericalError(EngineError):
    """The model gave a number that is not one; this request ends, others go on."""


class StepFailed(EngineError):
    """A forward pass failed; its requests end, or are tried once more if memory ran out."""

    def __init__(self, message: str, *, hint: str = "", out_of_memory: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.out_of_memory = out_of_memory
