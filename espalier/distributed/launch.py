"""Starts the ranks of a group on this machine, hands each its settings, and ends them.

Rank 0 is this process. Every other is `python -P -m MODULE DESCRIPTOR`, with one end of a socket
pair: it brings the rank its orders, takes its "ready", and tells it of this process's end, at which
the rank ends too, whatever it is doing. The ranks meet through a file in a folder of mode 0700,
which is gone once they have met. A rank that ends is seen by the others in their next collective
(`RankLost`); `Ranks.check` tells how it ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from espalier.distributed.gloo import GlooGroup
from espalier.errors import EngineError

START_S = 120.0  # importing torch on a busy machine takes a while
GRACE_S = 5.0
LENGTH = 8  # bytes before the orders, little-endian
READY = b"!"


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank is told when it starts."""

    rank: int
    size: int
    folder: str  # where the ranks meet
    timeout_s: float  # the longest wait for another rank in a collective
    settings: bytes  # the module's own


class RankFailed(EngineError):
    """A rank ended, or did not start; says which, and how it ended."""


@dataclass(frozen=True, slots=True)
class _Child:
    rank: int
    process: subprocess.Popen[bytes]
    line: socket.socket


class Ranks:
    """The ranks of a group: `group` is this process's end of it, and `stop` ends the others."""

    def __init__(self, group: GlooGroup, children: Sequence[_Child]) -> None:
        self.group = group
        self._children = list(children)

    @property
    def processes(self) -> tuple[int, ...]:
        """The process ids of the ranks from 1 on."""
        return tuple(child.process.pid for child in self._children)

    def check(self) -> None:
        """Raise if a rank has ended. Takes no time: for an idle engine, and after an error."""
        for child in self._children:
            if child.process.poll() is not None:
                raise _failed(child)

    def stop(self) -> None:
        """End the other ranks and wait until they are gone. A second call does nothing."""
        _end(self._children)
        self._children.clear()


def launch(module: str, settings: bytes, size: int, *, timeout_s: float = 300.0) -> Ranks:
    """Start ranks 1 to `size` - 1 running `module`, which begins with `join`, and meet them."""
    folder = Path(tempfile.mkdtemp(prefix="espalier-ranks-"))  # made with mode 0700
    children: list[_Child] = []
    try:
        for rank in range(1, size):
            # One by one: if a later one does not start, those that did are ended.
            children.append(_start(module, rank))  # noqa: PERF401
        for child in children:
            orders = Orders(
                rank=child.rank,
                size=size,
                folder=str(folder),
                timeout_s=timeout_s,
                settings=settings,
            )
            _tell(child, orders)
        for child in children:
            _wait_ready(child)
        group = GlooGroup(folder, 0, size, timeout_s)
    except BaseException:
        _end(children)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Ranks(group, children)


def join(arguments: Sequence[str]) -> tuple[GlooGroup, bytes]:
    """In a rank that `launch` started, with its `sys.argv`: meet the others; the settings, too."""
    # An interrupt at the terminal reaches every process of the group: rank 0 decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = socket.socket(fileno=int(arguments[1]))
    line.set_inheritable(False)
    length = int.from_bytes(_exactly(line, LENGTH), "little")
    orders = msgspec.msgpack.decode(_exactly(line, length), type=Orders)
    threading.Thread(target=_leave_with_parent, args=(line,), daemon=True).start()
    line.sendall(READY)
    group = GlooGroup(Path(orders.folder), orders.rank, orders.size, orders.timeout_s)
    return group, orders.settings


def _leave_with_parent(line: socket.socket) -> None:
    """Wait for the parent's end of the line to close, then end at once: there is nothing to save.

    Not PR_SET_PDEATHSIG, which fires when the *thread* that started the rank ends.
    """
    try:
        line.recv(1)
    finally:
        os._exit(0)


def _exactly(line: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = line.recv(count - len(data))
        if not piece:
            raise RankFailed("rank 0 ended while this rank started")
        data += piece
    return bytes(data)


def _start(module: str, rank: int) -> _Child:
    ours, theirs = socket.socketpair()
    with theirs:
        # -P: modules come from where espalier does, never from the folder we happen to stand in.
        command = [sys.executable, "-P", "-m", module, str(theirs.fileno())]
        # A rank says what it has to say in the log: standard output may be somebody's data.
        process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2
        )
    return _Child(rank, process, ours)


def _tell(child: _Child, orders: Orders) -> None:
    data = msgspec.msgpack.encode(orders)
    child.line.settimeout(START_S)
    try:
        child.line.sendall(len(data).to_bytes(LENGTH, "little") + data)
    except OSError as error:
        raise _failed(child) from error


def _wait_ready(child: _Child) -> None:
    try:
        answer = child.line.recv(1)
    except OSError as error:
        raise _failed(child) from error
    if answer != READY:
        raise _failed(child)


def _failed(child: _Child) -> RankFailed:
    """What became of a rank that broke its line, or kept silent too long."""
    try:
        code = child.process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        how = f"does not answer after {START_S:.0f} s"
    else:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    return RankFailed(f"rank {child.rank} {how}", hint="the log above says why")


def _end(children: Sequence[_Child]) -> None:
    for child in children:
        child.line.close()
    deadline = time.monotonic() + GRACE_S
    for child in children:
        try:
            child.process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
