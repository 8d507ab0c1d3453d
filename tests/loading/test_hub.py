"""Fetching from a hub: a real server on this machine, that breaks off, refuses and lies."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from espalier.errors import ConfigError
from espalier.loading.hub import HubPlaces, cached, find, hub_places

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": bytes(range(256)) * 2000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"never fetched",
    "run.py": b"never fetched",
}


@dataclass
class Hub:
    """What the server holds, does, and was asked."""

    endpoint: str = ""
    status: int = 200
    cut_after: int | None = None  # the next big file breaks off after so many bytes
    lie: bytes | None = None  # another content of the same length
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


def listing() -> bytes:
    siblings = [
        {
            "rfilename": name,
            "size": len(data),
            "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)},
        }
        for name, data in FILES.items()
    ]
    return json.dumps({"sha": COMMIT, "siblings": siblings}).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers.get("Range", "")))
            state.tokens.add(self.headers.get("Authorization", ""))
            if state.status != 200:
                self.answer(state.status, b"no")
            elif self.path.startswith("/api/models/"):
                self.answer(200, listing())
            else:
                self.file(self.path.rpartition("/")[2])

        def file(self, name: str) -> None:
            data = FILES[name]
            if name == "model.safetensors" and state.lie is not None:
                data = state.lie
            wanted = self.headers.get("Range", "")
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if name == "model.safetensors" and state.cut_after is not None:
                size, state.cut_after = state.cut_after, None
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:size])
                self.close_connection = True
                return
            self.answer(206 if start else 200, data[start:], start, len(data))

        def answer(self, status: int, data: bytes, start: int = 0, size: int = 0) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def places(hub: Hub, tmp_path: Path, **more: object) -> HubPlaces:
    values = {"cache": tmp_path, "endpoint": hub.endpoint, **more}
    return HubPlaces(**values)  # type: ignore[arg-type]


def no_wait(_: float) -> None:
    """Pauses are not waited for here."""


def test_a_model_is_fetched_once_and_only_what_serving_needs(hub: Hub, tmp_path: Path) -> None:
    folder = find("org/name", places(hub, tmp_path, token="secret"), no_wait)
    assert folder == tmp_path / "models--org--name" / "snapshots" / COMMIT
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert hub.tokens == {"Bearer secret"}
    hub.asked.clear()
    assert find("org/name", places(hub, tmp_path), no_wait) == folder
    assert not [path for path, _ in hub.asked if "/resolve/" in path]


def test_what_broke_off_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 200_000
    folder = find("org/name", places(hub, tmp_path), no_wait)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    ranges = [wanted for path, wanted in hub.asked if path.endswith("model.safetensors")]
    assert ranges == ["", "bytes=200000-"]


def test_content_that_is_not_what_the_hub_said_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.lie = bytes(len(FILES["model.safetensors"]))
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        find("org/name", places(hub, tmp_path), no_wait)
    assert cached("org/name", places(hub, tmp_path)) is None


@pytest.mark.parametrize(
    ("status", "says"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "org/name")]
)
def test_a_gated_or_missing_repository_is_explained(
    hub: Hub, tmp_path: Path, status: int, says: str
) -> None:
    hub.status = status
    with pytest.raises(ConfigError, match=says):
        find("org/name", places(hub, tmp_path), no_wait)


def test_offline_the_cache_is_used_and_nobody_is_asked(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        find("org/name", places(hub, tmp_path, offline=True), no_wait)
    folder = find("org/name", places(hub, tmp_path), no_wait)
    hub.asked.clear()
    assert find("org/name", places(hub, tmp_path, offline=True), no_wait) == folder
    assert not hub.asked


def test_a_hub_that_is_down_is_made_up_for_by_the_cache(hub: Hub, tmp_path: Path) -> None:
    folder = find("org/name", places(hub, tmp_path), no_wait)
    hub.status = 503
    assert find("org/name", places(hub, tmp_path), no_wait) == folder


@pytest.mark.parametrize("name", ["../x", "a/b/c", "org/..", "org/na me", "a--b/c", "~x"])
def test_what_is_no_name_is_refused(name: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        find(name, places(hub, tmp_path), no_wait)
    assert not hub.asked


def test_the_usual_variables_say_where_things_are() -> None:
    found = hub_places({"HF_HOME": "/a", "HUGGING_FACE_HUB_TOKEN": "t"}, Path("/home"))
    assert (found.cache, found.token) == (Path("/a/hub"), "t")
    found = hub_places({"TRANSFORMERS_CACHE": "/b", "HF_ENDPOINT": "http://m/"}, Path("/home"))
    assert (found.cache, found.endpoint) == (Path("/b"), "http://m")
