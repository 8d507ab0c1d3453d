"""The array types that steps and messages are made of, and how they cross a process border.

An array travels as its raw little-endian bytes; the field's type says what is in it, so nothing on
the wire can declare a size of its own.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int32]  # tokens, pages, slots, positions, counts
LongIds: TypeAlias = npt.NDArray[np.int64]  # request ids
Floats: TypeAlias = npt.NDArray[np.float32]

NO_IDS: Ids = np.empty(0, np.int32)
NO_IDS.flags.writeable = False


def ids(values: Any) -> Ids:
    """`values` as an array of int32."""
    return np.asarray(values, np.int32)


def raw(value: Any) -> bytes:
    """The encoder's hook: an array as bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    raise NotImplementedError(f"{type(value).__name__} does not cross a process border")


def array(wanted: Any, data: Any) -> Any:
    """The decoder's hook: bytes as the array that the field's type names."""
    dtype = np.dtype(wanted.__args__[1].__args__[0])
    if not isinstance(data, bytes) or len(data) % dtype.itemsize:
        raise msgspec.ValidationError(f"expected whole items of {dtype}")
    return np.frombuffer(data, dtype)
