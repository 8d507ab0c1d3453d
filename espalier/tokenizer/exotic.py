"""Tokenizers without tokenizer.json: converted to one, once, by a child process.

SentencePiece models, tiktoken ranks and vocab files are read by `transformers`, which costs seconds
and hundreds of megabytes, and which this process never imports. So a child does it (`convert.py`;
no code of the checkpoint is run), and the result is kept in a private folder under a name made of
the sources' contents: a checkpoint that changed is converted again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from espalier.errors import CheckpointError, ConfigError

CHILD = "espalier.tokenizer.convert"
TIMEOUT_S = 300
PATTERNS = ("*.model", "*.tiktoken", "tekken.json", "vocab.*", "merges.txt", "spiece.*")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
HINT = "put a tokenizer.json beside the weights, or install what is missing (sentencepiece, protobuf, tiktoken)"


def converted(folder: Path, cache: Path | None) -> Path:
    """The folder with the tokenizer.json made from `folder`, converting if that was not done yet."""
    sources = _sources(folder)
    if cache is None:
        raise ConfigError(
            f"{folder} has no tokenizer.json, only {sources[0].name}",
            hint="name a folder where the converted tokenizer may be kept, or " + HINT,
        )
    ready = cache / _digest(sources)
    if not ready.is_dir():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _convert_into(ready, folder, sources)
    return ready


def _sources(folder: Path) -> list[Path]:
    vocabularies = sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})
    if not vocabularies:
        raise CheckpointError(
            f"{folder} has no tokenizer",
            hint="tokenizer.json, tokenizer.model or another vocabulary file must be there",
        )
    return vocabularies + [folder / name for name in SETTINGS if (folder / name).is_file()]


def _digest(sources: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _convert_into(ready: Path, folder: Path, sources: list[Path]) -> None:
    """Work on a copy of the sources alone: no python file of the checkpoint is even near."""
    work = Path(tempfile.mkdtemp(dir=ready.parent, prefix="converting-"))
    try:
        for path in sources:
            shutil.copyfile(path, work / path.name)
        out = work / "out"
        out.mkdir()
        _run(folder, work, out)
        try:
            os.replace(out, ready)
        except OSError:
            if not ready.is_dir():  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(folder: Path, work: Path, out: Path) -> None:
    command = [sys.executable, "-m", CHILD, str(work), str(out)]
    try:
        done = subprocess.run(  # noqa: S603 - our own module, our own arguments
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"converting the tokenizer of {folder} took more than {TIMEOUT_S} s", hint=HINT
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ConfigError(
            f"the tokenizer of {folder} cannot be converted: {lines[-1] if lines else 'no reason'}",
            hint=HINT,
        )
