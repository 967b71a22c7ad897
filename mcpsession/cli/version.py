"""`mcpsession version`: which release this is, and which schema it needs."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from typing import Any


def add_to(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = verbs.add_parser("version", help="print the release", description=__doc__)
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    from mcpsession.postgres.migrate import HEAD

    sys.stdout.write(f"{installed()} (schema {HEAD})\n")


def installed() -> str:
    """The release that is installed."""
    return f"mcpsession {importlib.metadata.version('mcpsession')}"
