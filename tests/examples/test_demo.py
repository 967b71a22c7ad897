"""The demo as its audience runs it: a process of its own, its exit code, and what it leaves behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import httpx2
import psutil
import pytest

from examples.cluster import ROOT

STEPS = 7


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files that every user may enter: Postgres does not run as root; pytest's are closed."""
    with tempfile.TemporaryDirectory(prefix="mcpsession-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@asynccontextmanager
async def running(*arguments: str, folder: Path) -> AsyncIterator[anyio.abc.Process]:
    """The demo, whose temporary files go to `folder`; killed if the test fails before its end."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    process = await anyio.open_process(
        [sys.executable, "-m", "examples.demo", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def read(process: anyio.abc.Process, until: str | None = None) -> str:
    """What the process prints, to its end or until a text is in it."""
    assert process.stdout is not None
    text = b""
    async for chunk in process.stdout:
        text += chunk
        if until is not None and until.encode() in text:
            break
    return text.decode()


def processes_of(group: int, folder: Path) -> list[psutil.Process]:
    """Who is left of a process group, or belongs to a demo whose temporary files were in `folder`."""
    left = []
    for process in psutil.process_iter():
        try:
            mine = os.getpgid(process.pid) == group or process.environ().get("TMPDIR") == str(folder)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
        except (psutil.Error, ProcessLookupError):
            continue
    return left


async def until_nobody_is_left(group: int, folder: Path) -> None:
    with anyio.fail_after(10):
        while processes_of(group, folder):
            await anyio.lowlevel.checkpoint()


async def test_the_story_succeeds_and_leaves_nothing_behind(folder: Path) -> None:
    async with running(folder=folder) as demo:
        with anyio.fail_after(120):
            output = await read(demo)
            code = await demo.wait()
    assert code == 0, output
    assert STEPS == output.count("✓"), output
    assert f"all {STEPS} steps passed" in output
    assert "\x1b" not in output, "no colours and no animation in a pipe"
    await until_nobody_is_left(demo.pid, folder)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_serve_prints_a_url_that_answers_until_a_signal_ends_all_of_it(how: signal.Signals, folder: Path) -> None:
    async with running("serve", folder=folder) as demo:
        with anyio.fail_after(60):
            output = await read(demo, until="Ctrl-C")
            found = re.search(r"http://127\.0\.0\.1:\d+/mcp", output)
            assert found, output
            async with httpx2.AsyncClient(trust_env=False) as http:
                statuses = [(await http.get(found[0].replace("/mcp", "/healthz"))).status_code for _ in range(3)]
            assert [200] * 3 == statuses
            demo.send_signal(how)
            assert await demo.wait() == 0
    await until_nobody_is_left(demo.pid, folder)
    assert os.listdir(folder) == []


async def test_a_signal_in_the_middle_of_the_story_ends_it_cleanly(folder: Path) -> None:
    async with running(folder=folder) as demo:
        with anyio.fail_after(60):
            output = await read(demo, until="✓ 1")
            demo.send_signal(signal.SIGTERM)
            assert await demo.wait() == 128 + signal.SIGTERM, output
    await until_nobody_is_left(demo.pid, folder)
    assert os.listdir(folder) == []


async def test_a_database_that_is_not_there_is_told_in_a_sentence(folder: Path) -> None:
    async with running("--url", "postgresql://nobody@127.0.0.1:1/nowhere", folder=folder) as demo:
        with anyio.fail_after(60):
            output = await read(demo)
            assert await demo.wait() == 1
    assert "127.0.0.1" in output
    await until_nobody_is_left(demo.pid, folder)
    assert os.listdir(folder) == []
