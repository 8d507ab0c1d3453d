"""Planning for a model that is not here fetches its config.json, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from espalier.cli.main import main
from tests.cli.test_main import CONFIG


@contextmanager
def hub(asked: list[str]) -> Iterator[str]:
    """A hub with one file, on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = json.dumps(CONFIG).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_plan_asks_the_hub_for_the_config_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with hub(asked) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        line = ["plan", "org/small", "--revision", "v2", "--memory", "4GB", "--device", "cpu"]
        assert main(line) == 0
    assert asked == ["/org/small/resolve/v2/config.json"]
    assert "org/small" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_plan_uses_what_is_here_and_asks_nobody_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = ["plan", "org/small", "--memory", "4GB", "--device", "cpu"]
    line += ["--download-dir", str(tmp_path)]
    assert main(line) == 2
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    own = tmp_path / "models--org--small"
    snapshot = own / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    (own / "refs").mkdir()
    (own / "refs" / "main").write_text("a" * 40)
    assert main(line) == 0
    assert "It fits." in capsys.readouterr().out
