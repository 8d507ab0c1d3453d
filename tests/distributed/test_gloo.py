"""Ranks on this machine: how they start, sum, hear, and end. Each test has real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from espalier.distributed.gloo import FRAME, LENGTH, RankLost, broadcast_bytes
from espalier.distributed.launch import RankFailed, Ranks, launch
from tests.distributed.rank import value

MODULE = "tests.distributed.rank"
ROOT = Path(__file__).parents[2]
SOON_S = 10.0  # far below any time-out in the code


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank imports its module from where espalier is, not from where we stand."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def three() -> Iterator[Ranks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        ranks = launch(MODULE, b"settings", 3)
    yield ranks
    broadcast_bytes(ranks.group, b"stop")
    ranks.stop()


def wait_gone(pid: int) -> None:
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=SOON_S)
    assert not psutil.pid_exists(pid)


def test_a_sum_is_taken_in_order_of_rank(three: Ranks) -> None:
    broadcast_bytes(three.group, b"sum")
    found = three.group.all_reduce(value(0))
    assert torch.equal(found, (value(0) + value(1)) + value(2))
    assert not torch.equal(found, value(0) + (value(1) + value(2)))


def test_parts_are_joined_in_order_of_rank(three: Ranks) -> None:
    broadcast_bytes(three.group, b"gather")
    found = three.group.all_gather(value(0), dim=1)
    assert torch.equal(found, torch.cat([value(0), value(1), value(2)], dim=1))


def test_every_rank_has_the_settings(three: Ranks) -> None:
    broadcast_bytes(three.group, b"echo")
    found = three.group.all_gather(torch.tensor(list(b"settings")), dim=0)
    assert bytes(found.tolist()) == b"settings" * 3


@pytest.mark.parametrize("extra", [-1, 0, 1, FRAME, 100_000])
def test_bytes_of_any_length_arrive_whole(three: Ranks, extra: int) -> None:
    data = b"x" * (FRAME - LENGTH + extra)
    assert broadcast_bytes(three.group, data) == data
    found = three.group.all_gather(torch.tensor([len(data)]), dim=0)
    assert found.tolist() == [len(data)] * 3


def test_only_loopback_is_listened_on(three: Ranks) -> None:
    for pid in (os.getpid(), *three.processes):
        listening = [c for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
        assert all(connection.laddr.ip == "127.0.0.1" for connection in listening)


def test_nothing_is_left_in_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ranks = launch(MODULE, b"", 2)
    assert list(tmp_path.iterdir()) == []
    [pid] = ranks.processes
    ranks.stop()
    ranks.stop()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("order", "ending"),
    [(b"die", "signal 9"), (b"raise", "(status 1|signal 6)")],
    ids=["killed", "raised"],
)
def test_a_lost_rank_is_an_error_within_seconds(order: bytes, ending: str) -> None:
    ranks = launch(MODULE, b"", 2)
    ranks.check()
    broadcast_bytes(ranks.group, order)
    start = time.monotonic()
    with pytest.raises(RankLost, match="rank 0 of 2 lost another one"):
        ranks.group.all_reduce(value(0))
    assert time.monotonic() - start < SOON_S
    for pid in ranks.processes:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(RankFailed, match=f"rank 1 .* {ending}"):
        ranks.check()
    ranks.stop()


def test_a_silent_rank_is_an_error_after_the_time_limit() -> None:
    ranks = launch(MODULE, b"", 2, timeout_s=0.5)
    broadcast_bytes(ranks.group, b"hang")
    with pytest.raises(RankLost):
        ranks.group.all_reduce(value(0))
    [pid] = ranks.processes
    ranks.stop()
    assert not psutil.pid_exists(pid)


def test_a_rank_that_cannot_start_is_an_error_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(RankFailed, match="rank 1 ended with status 1"):
        launch("tests.distributed.there_is_no_such_module", b"", 2)
    assert time.monotonic() - start < SOON_S


def test_ranks_end_with_their_parent() -> None:
    script = (
        "from espalier.distributed.launch import launch\n"
        f"ranks = launch({MODULE!r}, b'', 3)\n"
        "print(*ranks.processes, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(psutil.pid_exists(pid) for pid in children)
        parent.send_signal(signal.SIGKILL)
    assert len(children) == 2
    for pid in children:
        wait_gone(pid)
