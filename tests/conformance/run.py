"""Run the public conformance suite against our cluster, or against the stock SDK: `python -m tests.conformance.run`."""

import argparse
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from tests.conformance import suite
from tests.conformance.counting import EXPECTED, Tally, count

STARTUP = 20.0
"""Seconds that the stock server has until it answers."""

RESULTS = suite.CACHE / "results"

console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code: 0 if every run is exact."""
    options = _parse(arguments)
    program = suite.install()
    specs: list[str] = options.spec or list(EXPECTED)
    name = "stock" if options.stock else "mcpsession"
    for spec in specs:
        shutil.rmtree(RESULTS / name / spec, ignore_errors=True)

    server = stock_server() if options.stock else our_cluster(options.replicas)
    anyio.run(_run_all, server, program, specs, RESULTS / name)
    tallies = [count(RESULTS / name / spec, spec) for spec in specs]
    _report(f"{name}, {1 if options.stock else options.replicas} process(es)", tallies, RESULTS / name)
    return 0 if all(tally.exact for tally in tallies) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run", description=__doc__)
    parser.add_argument("--stock", action="store_true", help="one process of the stock SDK instead of our cluster")
    parser.add_argument("--replicas", type=int, default=3, help="processes of our cluster (default: %(default)s)")
    parser.add_argument("--spec", action="append", choices=list(EXPECTED), help="protocol version (default: both)")
    return parser.parse_args(arguments)


async def _run_all(
    server: AbstractAsyncContextManager[str], program: Path, specs: Sequence[str], results: Path
) -> None:
    async with anyio.create_task_group() as tasks:
        # A signal unwinds like any other cancellation, so the servers end with us.
        tasks.start_soon(_cancel_on_sigterm, tasks.cancel_scope)
        async with server as url:
            for spec in specs:
                await suite.run(program, url=url, spec=spec, output=results / spec)
        tasks.cancel_scope.cancel()


async def _cancel_on_sigterm(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


# Servers


@asynccontextmanager
async def our_cluster(replicas: int) -> AsyncIterator[str]:
    """Yield the endpoint of our cluster, where each request goes to the next replica."""
    # Here and not above: the stock run must work without the layer.
    from examples.cluster import run_cluster

    async with run_cluster("tests.conformance.server:app", replicas=replicas, database_url=None) as cluster:
        yield f"{cluster.url}/mcp"


@asynccontextmanager
async def stock_server() -> AsyncIterator[str]:
    """Yield the endpoint of one process of the stock SDK."""
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.conformance.server:stock_app"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    # Warnings of the SDK, which the suite provokes on purpose, go nowhere; a start that fails is told by its exit code.
    process = await anyio.open_process([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await _answering(process, port)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def _answering(process: anyio.abc.Process, port: int) -> None:
    with anyio.fail_after(STARTUP):
        while process.returncode is None:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(0.05)
            else:
                await stream.aclose()
                return
    raise RuntimeError(f"the stock server ended with {process.returncode}; run uvicorn by hand to see why")


async def _end(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(5):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()


# Report


def _report(title: str, tallies: Sequence[Tally], results: Path) -> None:
    table = Table("spec", title=title)
    for column in ("scenarios", "success", "failure", "warning"):
        table.add_column(column, justify="right")
    for tally in tallies:
        table.add_row(
            tally.spec,
            f"{tally.scenarios}/{tally.expected.scenarios}",
            f"{tally.success}/{tally.expected.checks}",
            str(tally.failure),
            str(tally.warning),
            style="green" if tally.exact else "red",
        )
    console.print(table)
    for tally in tallies:
        for complaint in tally.complaints:
            head = f"{tally.spec} {complaint.scenario}: {complaint.status} {complaint.check}"
            console.print(f"{head}\n    {complaint.message}", markup=False, soft_wrap=True)
        log = results / tally.spec / suite.LOG
        if not tally.exact and log.exists():
            console.print(f"{tally.spec}: the suite's own words are in {log}", markup=False, soft_wrap=True)
    passed = sum(tally.success for tally in tallies)
    failed = sum(tally.failed for tally in tallies)
    console.print(f"{passed} passed, {failed} failed")


if __name__ == "__main__":
    sys.exit(main())
