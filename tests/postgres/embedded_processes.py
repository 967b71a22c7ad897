"""Parents that run a private Postgres, and how to see that none of its processes is left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PARENT = [sys.executable, "-m", "tests.postgres.embedded_parent"]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited until {what}"
        time.sleep(0.01)


def gone(process: psutil.Process) -> bool:
    """Ended; a zombie, which an init that does not reap leaves, runs no more."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes_of(pid: int) -> list[psutil.Process]:
    postmaster = psutil.Process(pid)
    return [postmaster, *postmaster.children(recursive=True)]


@contextmanager
def parent(way: str, *directory: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [*PARENT, way, *map(str, directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        said = json.loads(process.stdout.readline())
        try:
            yield process, said
        finally:
            process.kill()
