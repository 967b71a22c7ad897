"""Makes `python -m mcpsession` the same as `mcpsession`."""

from __future__ import annotations

import sys

from mcpsession.cli import main

if __name__ == "__main__":
    sys.exit(main())
