"""One file from a hub to disk: resumed where it broke off, checked by size and hash, then renamed.

A half file is `<hash>.incomplete`; a file by its own name is whole and is what the hub says it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from espalier.errors import CheckpointError, ConfigError
from espalier.loading.progress import Advance

ATTEMPTS = 6  # in a row without a byte of progress
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 10.0
TIMEOUT_S = 30.0  # of silence
BLOCK = 1 << 20
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
PARTIAL_CONTENT, NOT_SATISFIABLE = 206, 416


class Unreachable(ConfigError):
    """The hub gave no answer, or none that can be used, for as long as we tried."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of a repository: its name, its hash (SHA-256, or git's SHA-1) and its size."""

    name: str
    content: str
    size: int


class _KeepTokenHome(HTTPRedirectHandler):
    """Follows redirects, and drops the token when they lead to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if following is not None:
            if urlsplit(newurl).scheme not in {"http", "https"}:
                raise ConfigError(f"{req.full_url} leads to {newurl}, which is not on the web")
            if urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
                following.remove_header("Authorization")
        return following


class Door:
    """The way to one hub: asks, tries again, and explains what it is refused."""

    def __init__(self, endpoint: str, token: str, wait: Callable[[float], None]) -> None:
        if urlsplit(endpoint).scheme not in {"http", "https"}:
            raise ConfigError(f"HF_ENDPOINT = {endpoint!r} is no web address", hint="https://...")
        self.endpoint = endpoint
        self._token = token
        self._wait = wait
        self._opener: OpenerDirector = build_opener(_KeepTokenHome)

    def read(self, path: str, at_most: int) -> bytes:
        """A small answer, whole."""
        for attempt in range(ATTEMPTS):
            try:
                with self.open(path, 0) as answer:
                    data = answer.read(at_most + 1)
            except (URLError, OSError, http.client.HTTPException) as error:
                self.pause(path, attempt, error)
                continue
            if len(data) > at_most:
                raise CheckpointError(f"{self.endpoint}{path}: more than {at_most} bytes")
            return data
        raise AssertionError("the last pause raises")

    def open(self, path: str, start: int) -> http.client.HTTPResponse:
        """The answer from byte `start` on; raises ConfigError for what trying again cannot mend."""
        request = Request(self.endpoint + path, headers={"User-Agent": "espalier"})  # noqa: S310 - the scheme is checked above
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT_S)
        except HTTPError as error:
            error.close()
            if error.code in RETRIED or (start and error.code == NOT_SATISFIABLE):
                raise
            _explain(self.endpoint + path, error, has_token=bool(self._token))
        return answer

    def pause(self, path: str, attempt: int, error: Exception) -> None:
        """Wait before the next attempt, twice as long each time; the last one was the last."""
        if attempt + 1 >= ATTEMPTS:
            raise Unreachable(
                f"{self.endpoint}{path}: {error}",
                hint="check the network and HF_ENDPOINT; what is fetched already is kept",
            ) from error
        self._wait(min(FIRST_PAUSE_S * 2**attempt, MAX_PAUSE_S))


def fetch(door: Door, path: str, blob: Blob, folder: Path, advance: Advance) -> None:
    """Bring `blob` into `folder`, under its hash; goes on where an earlier attempt broke off."""
    final, part = folder / blob.content, folder / f"{blob.content}.incomplete"
    _check_room(folder, blob)
    with part.open("ab") as file:
        # Another process may be at it: it finishes first, and then there is nothing to do.
        fcntl.flock(file, fcntl.LOCK_EX)
        if final.exists():
            part.unlink(missing_ok=True)
            return
        advance(file.tell())
        _fill(door, path, blob, file, advance)
        file.flush()
        _check_content(part, blob, path)
        part.replace(final)


def _fill(door: Door, path: str, blob: Blob, file: IO[bytes], advance: Advance) -> None:
    attempt = 0
    while (have := file.tell()) < blob.size:
        try:
            with door.open(path, have) as answer:
                _append(answer, file, have, blob, advance)
            error: Exception = ConnectionError(
                f"broke off after {file.tell()} of {blob.size} bytes"
            )
        except HTTPError as refused:
            if refused.code == NOT_SATISFIABLE:
                _start_over(file)
            error = refused
        except (URLError, OSError, http.client.HTTPException) as broken:
            error = broken
        if file.tell() < blob.size:
            attempt = 0 if file.tell() > have else attempt + 1
            door.pause(path, attempt, error)


def _append(
    answer: http.client.HTTPResponse, file: IO[bytes], have: int, blob: Blob, advance: Advance
) -> None:
    if have and answer.status != PARTIAL_CONTENT:  # this server starts over, so do we
        _start_over(file)
        advance(-have)
    while block := answer.read(BLOCK):
        file.write(block)
        advance(len(block))
        if file.tell() > blob.size:
            return


def _start_over(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _check_room(folder: Path, blob: Blob) -> None:
    free = shutil.disk_usage(folder).free
    if blob.size > free:
        raise ConfigError(
            f"{blob.name} takes {blob.size / 1e9:.2f} GB and {folder} has {free / 1e9:.2f} GB free",
            hint="make room, or set HF_HOME to a larger disk",
        )


def _check_content(part: Path, blob: Blob, path: str) -> None:
    """Size and hash are what the hub's listing says; otherwise the half file is thrown away."""
    size = part.stat().st_size
    if size == blob.size and _hash(part, blob) == blob.content:
        return
    part.unlink()
    what = f"has {size} bytes and not {blob.size}" if size != blob.size else "has another hash"
    raise CheckpointError(
        f"{path}: what came {what}", hint="try again; if it stays so, the mirror is broken"
    )


def _hash(part: Path, blob: Blob) -> str:
    if len(blob.content) == 64:
        digest = hashlib.sha256()
    else:  # a file that git keeps itself is known by git's own name for it
        digest = hashlib.sha1(f"blob {blob.size}\0".encode(), usedforsecurity=False)
    with part.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _explain(url: str, error: HTTPError, *, has_token: bool) -> NoReturn:
    """Say what a refusal means here. The hub gives its reason in a header."""
    reason = error.headers.get("X-Error-Code", "")
    if reason == "GatedRepo" or error.code == 403:
        why = "access must be granted first"
        hint = "accept the model's terms on its page, with the account that HF_TOKEN belongs to"
    elif reason == "RevisionNotFound":
        why, hint = "there is no such revision", "see the repository's branches and tags"
    elif error.code == 401 and has_token:
        why = "the token is not accepted, or the repository does not exist"
        hint = "check HF_TOKEN and the name"
    elif error.code in {401, 404}:
        why = "there is no such repository, or it is private"
        hint = "check the name; for a private one set HF_TOKEN"
    else:
        why, hint = f"the answer was {error.code} {error.reason}", "try again later"
    raise CheckpointError(f"{url}: {why}", hint=hint) from error
