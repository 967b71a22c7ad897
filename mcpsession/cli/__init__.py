"""The command `mcpsession`: one file per verb. Errors go to stderr with their remedy; it exits with 1, 2 for usage."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from mcpsession.cli import migrate, version
from mcpsession.errors import ConfigurationError, MCPSessionError

VERBS = (migrate, version)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="mcpsession", description="Sessions for MCP servers that outgrew one process."
    )
    parser.add_argument("--version", action="version", version=version.installed())
    verbs = parser.add_subparsers(metavar="verb")
    for verb in VERBS:
        verb.add_to(verbs)
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    # What a verb waits for is a warning of the package.
    logging.basicConfig(level=logging.WARNING, format="mcpsession: %(message)s")
    try:
        options.run(options)
    except MCPSessionError as error:
        sys.stderr.write(f"mcpsession: {error}\n")
        return 2 if isinstance(error, ConfigurationError) else 1
    except KeyboardInterrupt:
        return 130
    return 0
