"""What the other ranks do in tests of the group: as the first bytes broadcast say, until "stop"."""

from __future__ import annotations

import os
import signal
import sys

import torch

from espalier.distributed.gloo import GlooGroup, broadcast_bytes
from espalier.distributed.launch import join


def value(rank: int) -> torch.Tensor:
    """Numbers whose sum shows the order it was taken in."""
    return torch.randn(5, 33, generator=torch.Generator().manual_seed(rank)) * 10.0 ** (3 * rank)


def serve(group: GlooGroup, settings: bytes) -> None:
    while (order := broadcast_bytes(group, None)) != b"stop":
        match order:
            case b"sum":
                group.all_reduce(value(group.rank))
            case b"gather":
                group.all_gather(value(group.rank), dim=1)
            case b"echo":
                group.all_gather(torch.tensor(list(settings)), dim=0)
            case b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"raise":
                raise ValueError("as asked")
            case b"hang":
                signal.pause()
            case _:
                group.all_gather(torch.tensor([len(order)]), dim=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(*join(sys.argv))
