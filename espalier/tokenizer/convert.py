"""The child of `exotic.py`: `python -m espalier.tokenizer.convert FROM TO` writes TO/tokenizer.json.

The one place in this folder that imports transformers, and nothing imports it. No code from a
checkpoint is run and nothing is fetched. The last line on standard error is a failure's reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoTokenizer


def main(source: Path, target: Path) -> str:
    """Convert; the reason if that was not possible, else empty."""
    tokenizer = AutoTokenizer.from_pretrained(
        str(source), trust_remote_code=False, local_files_only=True, use_fast=True
    )
    if not tokenizer.is_fast:
        return f"{type(tokenizer).__name__} has no tokenizer.json form"
    tokenizer.save_pretrained(str(target))
    if not (target / "tokenizer.json").is_file():
        return f"{type(tokenizer).__name__} wrote no tokenizer.json"
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])) or 0)
