"""`python -m espalier` is `espalier`."""

from __future__ import annotations

import sys

from espalier.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
