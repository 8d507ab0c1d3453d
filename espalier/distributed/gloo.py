"""A group of ranks on this machine's CPUs, over torch's gloo and the loopback interface.

Sums are taken in order of rank, in float32, and rounded once: gathered and added, not reduced in a
ring, whose order of addition changes with the place of an element in the tensor, and so with the
size of the batch. So an element of the sum depends on its addends alone (on a CPU a row's result
never depends on its batch), and every rank has the same bits.

Only tensors travel. Nothing is pickled, and torch's global process group is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Not exported, or not to a type checker: torch.distributed's public face is its global group.
from torch._C._distributed_c10d import (
    AllgatherOptions,
    BroadcastOptions,
    FileStore,
    ProcessGroupGloo,
)

from espalier.errors import EngineError

LOOPBACK = "127.0.0.1"
FRAME = 4096  # bytes of a broadcast's first message: a usual step fits in one
LENGTH = 8  # of them the whole length, little-endian
MEETING = timedelta(seconds=60)
FOREVER = timedelta(days=365)  # ranks wait for work that long; a dead peer ends the wait at once


class RankLost(EngineError):
    """Another rank of the group died, or did not answer in time; the group cannot go on."""


class GlooGroup:
    """One rank's end. When it is made, all ranks have met in `folder`, which then is not needed.

    `timeout_s` bounds the wait for another rank in a collective.
    """

    def __init__(self, folder: Path, rank: int, size: int, timeout_s: float = 300.0) -> None:
        self.rank, self.size = rank, size
        self._timeout = timedelta(seconds=timeout_s)
        with self._lost("meeting the others"):
            self._gloo: Any = _meet(folder, rank, size)
            self._gathered(torch.zeros(1))

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of every rank's `x`, the same on each: in order of rank, rounded once."""
        first, *others = self._gathered(x)
        total = first.float() if x.is_floating_point() else first
        for other in others:
            total = total + other
        return total.to(x.dtype)

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """Every rank's `x`, in order of rank, joined along `dim`."""
        return torch.cat(self._gathered(x), dim)

    def broadcast(self, x: Tensor) -> None:
        """Make every rank's `x` that of rank 0; waits for rank 0 without a limit."""
        options = BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, FOREVER
        with self._lost("a broadcast"):
            self._gloo.broadcast([x], options).wait()

    def _gathered(self, x: Tensor) -> list[Tensor]:
        parts = [
            torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)
        ]
        options = AllgatherOptions()
        options.timeout = self._timeout
        with self._lost("a collective"):
            self._gloo.allgather([parts], [x.contiguous()], options).wait()
        return parts

    @contextmanager
    def _lost(self, doing: str) -> Iterator[None]:
        """gloo's one error, for a peer that is gone or silent, as ours."""
        try:
            yield
        except RuntimeError as error:
            raise RankLost(
                f"rank {self.rank} of {self.size} lost another one in {doing}: {error}",
                hint="the engine must be started again; the other rank's log says why it ended",
            ) from error


def broadcast_bytes(group: GlooGroup, data: bytes | None) -> bytes:
    """Rank 0's `data`, on every rank; the others pass None."""
    if data is None:
        frame = torch.empty(FRAME, dtype=torch.uint8)
        group.broadcast(frame)
        head = frame.numpy().tobytes()
        length = int.from_bytes(head[:LENGTH], "little")
        if length <= FRAME - LENGTH:
            return head[LENGTH : LENGTH + length]
        rest = torch.empty(length - (FRAME - LENGTH), dtype=torch.uint8)
        group.broadcast(rest)
        return head[LENGTH:] + rest.numpy().tobytes()
    room = FRAME - LENGTH
    head = len(data).to_bytes(LENGTH, "little") + data[:room].ljust(room, b"\0")
    group.broadcast(_tensor(head))
    if len(data) > room:
        group.broadcast(_tensor(data[room:]))
    return data


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _meet(folder: Path, rank: int, size: int) -> Any:
    """The process group. By default gloo listens where the host's name points: here on loopback."""
    gloo: Any = ProcessGroupGloo
    options = gloo._Options()  # noqa: SLF001  (torch has no public way to choose the interface)
    options._timeout = MEETING  # noqa: SLF001
    options._devices = [gloo.create_device(hostname=LOOPBACK)]  # noqa: SLF001
    options._threads = 2  # noqa: SLF001
    return gloo(FileStore(str(folder / "store"), size), rank, size, options)
