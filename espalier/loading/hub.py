"""Where a model's files are: a local folder as it is, or a hub's repository, fetched if need be.

The cache folder is laid out as Hugging Face's own tools do it, so both use the same files:
`models--org--name/blobs/<hash>` holds contents, `snapshots/<commit>/<file>` links to them, and
`refs/<revision>` names a commit. A ref is written last: where there is one, its snapshot is whole.
`download` has the transfer itself. Torch-free.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from espalier.errors import CheckpointError, ConfigError, NotBuilt
from espalier.loading.download import Blob, Door, Unreachable, fetch
from espalier.loading.progress import unseen, watched

log = logging.getLogger(__name__)

ENDPOINT = "https://huggingface.co"
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
COMMIT = re.compile(r"[0-9a-f]{40}")
CONTENT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)
FETCHERS = 4  # files at once
MAX_LISTING = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class HubPlaces:
    """The hub, and where its files are kept here; made from the environment by `hub_places`."""

    cache: Path
    endpoint: str = ENDPOINT
    token: str = ""
    offline: bool = False


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository and a revision of it: `org/name@revision`."""

    repository: str
    revision: str = "main"

    @property
    def folder(self) -> str:
        return "models--" + self.repository.replace("/", "--")


@dataclass(frozen=True, slots=True)
class _Listing:
    commit: str
    blobs: tuple[Blob, ...]


def hub_places(environment: Mapping[str, str], home: Path) -> HubPlaces:
    """What the variables known from Hugging Face's tools say; `home` is the user's."""
    base = Path(environment.get("HF_HOME") or home / ".cache" / "huggingface")
    cache = environment.get("HF_HUB_CACHE") or environment.get("TRANSFORMERS_CACHE") or base / "hub"
    token = environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN") or ""
    return HubPlaces(
        cache=Path(cache).expanduser(),
        endpoint=(environment.get("HF_ENDPOINT") or ENDPOINT).rstrip("/"),
        token=token.strip(),
        offline=environment.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"},
    )


def hub_name(model: str) -> HubName:
    """`org/name` or `org/name@revision`, checked; what it becomes part of a path is safe after."""
    repository, _, revision = model.partition("@")
    if not REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise ConfigError(
            f"{model!r} is neither a folder that exists nor a name on the hub",
            hint="give a checkpoint's folder, or a name like org/name or org/name@revision",
        )
    if revision and (not REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"{revision!r} cannot be a revision", hint="a branch, a tag or a commit")
    return HubName(repository, revision or "main")


def local_folder(model: str) -> Path | None:
    """The folder of that name, if there is one."""
    try:
        folder = Path(model).expanduser()
    except RuntimeError:  # a home of nobody
        return None
    return folder if folder.is_dir() else None


def find(model: str, places: HubPlaces, wait: Callable[[float], None] = time.sleep) -> Path:
    """The folder with the model's files, fetched from the hub if they are not here.

    `wait` is called with the seconds to pause before something is tried again.
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    name = hub_name(model)
    kept = cached(model, places)
    if places.offline:
        if kept is None:
            raise ConfigError(
                f"{model} is not in {places.cache}, and HF_HUB_OFFLINE is set",
                hint="fetch it once while online, or give its folder",
            )
        return kept
    door = Door(places.endpoint, places.token, wait)
    try:
        return _fetch(name, places, door)
    except Unreachable as error:
        if kept is None:
            raise
        log.warning("%s; using the copy of %s in %s", error.message, model, kept)
        return kept


def cached(model: str, places: HubPlaces) -> Path | None:
    """A folder, or the whole snapshot that the cache has of a name on the hub; asks nobody."""
    folder = local_folder(model)
    if folder is not None:
        return folder
    name = hub_name(model)
    own = places.cache / name.folder
    ref = own / "refs" / name.revision
    commit = ref.read_text().strip() if ref.is_file() else name.revision
    if not COMMIT.fullmatch(commit):
        return None
    snapshot = own / "snapshots" / commit
    return snapshot if (snapshot / "config.json").exists() else None


def _fetch(name: HubName, places: HubPlaces, door: Door) -> Path:
    listing = _list(name, door)
    own = places.cache / name.folder
    snapshot = own / "snapshots" / listing.commit
    snapshot.mkdir(parents=True, exist_ok=True)
    (own / "blobs").mkdir(exist_ok=True)
    missing = [blob for blob in listing.blobs if not (own / "blobs" / blob.content).exists()]
    line = watched(f"fetching {name.repository}", sum(blob.size for blob in missing))
    advance = line.advance if line else unseen
    base = f"/{name.repository}/resolve/{listing.commit}"
    try:
        with ThreadPoolExecutor(FETCHERS) as pool:
            jobs = [
                pool.submit(fetch, door, f"{base}/{blob.name}", blob, own / "blobs", advance)
                for blob in missing
            ]
            for job in jobs:
                job.result()
    finally:
        if line:
            line.close()
    for blob in listing.blobs:
        _link(snapshot / blob.name, blob)
    ref = own / "refs" / name.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    _write(ref, listing.commit)
    return snapshot


def _list(name: HubName, door: Door) -> _Listing:
    """The files of a revision that we want, with their sizes and hashes."""
    path = f"/api/models/{name.repository}/revision/{quote(name.revision, safe='')}?blobs=true"
    source = f"{door.endpoint}{path}"
    data = door.read(path, MAX_LISTING)
    try:
        answer = json.loads(data)
        commit, siblings = str(answer["sha"]), answer["siblings"]
        files = {str(item["rfilename"]): item for item in siblings}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source}: the answer is no listing: {error!r}") from error
    if not COMMIT.fullmatch(commit):
        raise CheckpointError(f"{source}: {commit!r} is no commit")
    wanted = wanted_files(name.repository, list(files))
    return _Listing(commit, tuple(_blob(source, file, files[file]) for file in wanted))


def wanted_files(repository: str, files: list[str]) -> list[str]:
    """Those of a repository's files that serving needs; a file in a folder never is."""
    plain = [file for file in files if FILE.fullmatch(file)]
    if "config.json" not in plain:
        raise CheckpointError(
            f"{repository} has no config.json", hint="it is not a model in the Hugging Face format"
        )
    weights = [file for file in plain if file.endswith(".safetensors")]
    if not weights:
        raise NotBuilt(
            f"{repository} has no safetensors weights",
            hint="take a repository or a revision that has them; pickles are never loaded",
        )
    named = [file for file in weights if file.startswith("model")]
    index = [file for file in plain if file == "model.safetensors.index.json"]
    others = [file for file in plain if any(fnmatchcase(file, pattern) for pattern in WANTED)]
    return [*others, *index, *(named or weights)]


def _blob(source: str, file: str, item: Mapping[str, Any]) -> Blob:
    lfs = item.get("lfs")
    content = lfs.get("sha256") if isinstance(lfs, dict) else item.get("blobId")
    size = lfs.get("size") if isinstance(lfs, dict) else item.get("size")
    if not isinstance(content, str) or not CONTENT.fullmatch(content):
        raise CheckpointError(f"{source}: gives no hash for {file}", hint="is this a full mirror?")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise CheckpointError(f"{source}: gives no size for {file}", hint="is this a full mirror?")
    return Blob(file, content, size)


def _link(link: Path, blob: Blob) -> None:
    """Point a snapshot's file at its content; done again by another process, it is the same."""
    target = Path("..", "..", "blobs", blob.content)
    if link.is_symlink() and link.readlink() == target:
        return
    part = link.with_name(f"{link.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)
