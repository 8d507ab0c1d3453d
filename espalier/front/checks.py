"""Checks of single values that a caller wrote: each gives the value back, or names what is wrong.

Nothing here may fail in any other way, whatever it is given: numbers of a million digits, lists in
lists without end, text that is none. So a value is shown by `Shown`, never by its own `repr`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from espalier.errors import OutOfRange
from espalier.protocol.arrays import Ids
from espalier.tokenizer.base import check_text

MAX_TOKEN = 2**31 - 1
_LONG_NUMBER = 128  # bits; longer ones are not written out
_NUMBERS = (int, np.int64, np.int32)

Check = Callable[[str, Any], Any]


class Shown:
    """A value as a message shows it: short, whatever it is."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        value = self._value
        if isinstance(value, int) and value.bit_length() > _LONG_NUMBER:
            return f"a number of {value.bit_length()} bits"
        try:
            return reprlib.repr(value)
        except (ValueError, RecursionError):
            return f"a {type(value).__name__}"


def refused(name: str, value: object, wanted: str, *, hint: str = "") -> OutOfRange:
    """The error that names a parameter and its value."""
    return OutOfRange(name, Shown(value), wanted, hint=hint)


def whole(low: int, high: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise refused(name, value, "must be a whole number")
        number = int(value)
        if not low <= number <= high:
            raise refused(name, value, f"must be from {low} to {high}")
        return number

    return check


def real(low: float, high: float, *, above: bool = False) -> Callable[[str, Any], float]:
    """A finite number in [low, high]; in (low, high] with `above`."""
    bound = f"above {low}" if above else f"at least {low}"

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise refused(name, value, "must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not low <= number <= high or (above and number == low):
            raise refused(name, value, f"must be {bound} and at most {high}")
        return number

    return check


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise refused(name, value, "must be true or false")
    return bool(value)


def text(most: int, *, printable: bool = False) -> Callable[[str, Any], str]:
    """A string; a `printable` one is ASCII that can stand in a log line."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise refused(name, value, "must be a string")
        if len(value) > most:
            raise refused(name, value, f"must have at most {most} characters")
        check_text(value, name)
        if printable and not (value.isascii() and value.isprintable()):
            raise refused(name, value, "must be printable ASCII")
        return value

    return check


def strings(most: int, most_bytes: int) -> Callable[[str, Any], tuple[str, ...]]:
    """One string or several, none of them empty."""

    def check(name: str, value: Any) -> tuple[str, ...]:
        items = (value,) if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise refused(name, value, "must be a string or a list of strings")
        if len(items) > most:
            raise refused(name, value, f"at most {most} strings, not {len(items)}")
        for place, item in enumerate(items):
            where = name if isinstance(value, str) else f"{name}[{place}]"
            if not isinstance(item, str) or not item:
                raise refused(where, item, "must be a string that is not empty")
            check_text(item, where)
            if len(item.encode()) > most_bytes:
                raise refused(where, item, f"at most {most_bytes} bytes")
        return tuple(items)

    return check


def is_sequence(value: Any) -> bool:
    """A list, a tuple, or an array in one row."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def token_ids(most: int) -> Callable[[str, Any], tuple[int, ...]]:
    def check(name: str, value: Any) -> tuple[int, ...]:
        if not (is_sequence(value) or isinstance(value, set | frozenset)):
            raise refused(name, value, "must be a list of token ids")
        if len(value) > most:
            raise refused(name, value, f"at most {most} tokens, not {len(value)}")
        return tuple(token_array(name, list(value)).tolist())

    return check


def token_array(name: str, values: Sequence[Any]) -> Ids:
    """Token ids as an array; long lists are usual here, so all are looked at together."""
    if set(map(type, values)).issubset(_NUMBERS):
        try:
            tokens = np.array(values, np.int64)
        except OverflowError:
            pass  # the culprit is found below
        else:
            if not len(tokens) or (tokens.min() >= 0 and tokens.max() <= MAX_TOKEN):
                return tokens.astype(np.int32)
    one = whole(0, MAX_TOKEN)
    return np.array([one(f"{name}[{place}]", item) for place, item in enumerate(values)], np.int32)


def check_vocabulary(name: str, tokens: Ids | Sequence[int], vocabulary: int) -> None:
    """Refuse the first token that the model does not have; none is below 0 here any more."""
    array: npt.NDArray[Any] = np.asarray(tokens)
    wrong = np.flatnonzero(array >= vocabulary)
    if len(wrong):
        place = int(wrong[0])
        raise refused(
            f"{name}[{place}]", int(array[place]), f"token ids are from 0 to {vocabulary - 1}"
        )
