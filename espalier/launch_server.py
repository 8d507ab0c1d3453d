"""`python -m espalier.launch_server` is `espalier serve`, as users of SGLang start a server."""

from __future__ import annotations

import sys

from espalier.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
