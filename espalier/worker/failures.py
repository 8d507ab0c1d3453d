"""What the scheduler learns when a step fails on the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from espalier.errors import EngineError, StepFailed

# torch says so in words when the host, and not a device, has no memory left.
HOST_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


class WorkerFailed(StepFailed):
    """A step failed. What its batch said of slots, pages and tokens stands: the next may follow.

    `out_of_memory`: the same requests may succeed in a smaller step.
    """

    def __init__(self, number: int, cause: Exception) -> None:
        out = is_out_of_memory(cause)
        super().__init__(
            f"step {number} " + ("ran out of memory" if out else f"failed: {type(cause).__name__}"),
            hint="send fewer or shorter requests at once" if out else "send the request again",
            out_of_memory=out,
        )
        self.number = number


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in HOST_OUT_OF_MEMORY
    )


@contextmanager
def step_guard(number: int) -> Iterator[None]:
    """Whatever goes wrong inside comes out as WorkerFailed, its cause attached.

    But an EngineError stays what it is: a lost rank is not mended by another step.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        raise WorkerFailed(number, error) from error
