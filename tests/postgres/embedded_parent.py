"""A process that runs a private Postgres, says who serves and where, and, told to go on, ends as its argument names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from mcpsession.postgres.embedded import EmbeddedPostgres, embedded_postgres


def say_and_wait(server: EmbeddedPostgres) -> None:
    sys.stdout.write(json.dumps({"pid": server.pid, "url": server.url, "directory": str(server.directory)}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


async def leave_by_exception(directory: Path) -> None:
    async with embedded_postgres(directory):
        raise RuntimeError("on purpose")


def main(way: str, directory: Path | None) -> None:
    if way == "async exception":
        assert directory is not None
        anyio.run(leave_by_exception, directory)
        return
    if way == "no close":
        server = EmbeddedPostgres(directory)
        server.start()
        say_and_wait(server)
        return
    with EmbeddedPostgres(directory) as server:
        say_and_wait(server)
        if way == "exception":
            raise RuntimeError("on purpose")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
