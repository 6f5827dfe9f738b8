"""`python -m hctef`: the command line."""

from __future__ import annotations

import sys

from hctef.cli import main

if __name__ == "__main__":
    sys.exit(main())
