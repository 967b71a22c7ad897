"""`mcpsession migrate`: make or update the schema. Safe to run from every replica at once."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import Any


def add_to(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = verbs.add_parser("migrate", help="make or update the schema", description=__doc__)
    parser.add_argument("--url", help="postgresql://user:password@host:port/database; default: MCPSESSION_URL")
    parser.add_argument("--revision", default="head", help="stop at this revision; default: the newest")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="then distribute the tables over the workers of Citus, by session; docs/scaling.md says when",
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(options: argparse.Namespace) -> None:
    # Alembic is slow to import, and the other verbs do without.
    from mcpsession.postgres.address import redacted
    from mcpsession.postgres.migrate import current_revision, migrate

    url: str = options.url or os.environ.get("MCPSESSION_URL", "")
    if not url:
        options.usage_error(
            "no database is given: use --url postgresql://user:password@host:port/database, or set MCPSESSION_URL"
        )
    if url.startswith(("memory:", "embedded:")):
        options.usage_error("memory:// and embedded:// need no migration: their tables are made when the layer starts")
    if options.distributed and options.revision != "head":
        options.usage_error("--distributed is for the newest revision: leave --revision out")
    before = asyncio.run(current_revision(url))
    migrate(url, options.revision)
    after = asyncio.run(current_revision(url))
    done = f"is at revision {after} already" if before == after else f"went from revision {before or 'none'} to {after}"
    sys.stdout.write(f"mcpsession: the schema of {redacted(url)} {done}\n")
    if options.distributed:
        from mcpsession.postgres.distribution import distribute

        distribute(url, _tell)


def _tell(done: str) -> None:
    sys.stdout.write(f"mcpsession: {done}\n")
    # At once: copying takes its time.
    sys.stdout.flush()
