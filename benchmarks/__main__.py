"""Measure what mcpsession costs beside what it replaces: `python -m benchmarks`; see docs/benchmarks/README.md."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from benchmarks import machine, picture
from benchmarks.client import WrongAnswerError
from benchmarks.database import fresh_database
from benchmarks.growth import AXES
from benchmarks.news_ears import NewsLostError
from benchmarks.parts import DEFAULT, PARTS, USUAL
from benchmarks.report import show_machine
from benchmarks.sides import LoadFailedError
from benchmarks.store_check import StatementsDifferError
from benchmarks.store_layer import WrongResultError
from examples.cluster import ROOT, ProcessFailedError
from mcpsession.errors import MCPSessionError

EXPECTED = (
    LoadFailedError,
    NewsLostError,
    ProcessFailedError,
    StatementsDifferError,
    WrongAnswerError,
    WrongResultError,
    MCPSessionError,
    OSError,
)

# Where a run is written down that says nothing else, and where the published numbers are.
OWN = ROOT / ".bench"
PUBLISHED = ROOT / "docs" / "benchmarks"

console = Console(highlight=False)


@dataclass
class Report:
    """What a run has measured so far; shown as it comes."""

    machine: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def as_json(self, only: str | None = None) -> dict[str, Any]:
        told = {name: part.as_json() for name, part in self.parts.items() if only in (None, name)}
        return {"machine": self.machine, **told}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    options = _parse(arguments)
    report = Report()
    failures: list[BaseException] = []
    try:
        anyio.run(_until_done_or_sigterm, options, report)
    except* EXPECTED as failed:
        failures = _leaves(failed)
    if failures:
        for error in failures:
            console.print(str(error), style="red", markup=False)
        return 1
    if not report.done:
        return 128 + signal.SIGTERM
    _write(options, report)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=[*PARTS], help=f"one of the parts (default: {' and '.join(DEFAULT)})")
    parser.add_argument("--all", action="store_true", help=f"{', '.join(USUAL)}: about a quarter of an hour")
    parser.add_argument("--rounds", type=_count, help="times that each side is measured (default: 5)")
    parser.add_argument(
        "--seconds",
        type=float,
        help="measured seconds of each turn (default: 2 of calls, 1 of the store, 2 of news, …)",
    )
    parser.add_argument("--sessions", type=_count, default=8, help="concurrent sessions (default: %(default)s)")
    parser.add_argument(
        "--tool",
        choices=["echo", "echo_async"],
        default="echo",
        help="echo is a plain function, which the SDK runs in a thread",
    )
    parser.add_argument("--http", choices=["h11", "httptools"], help="one of the two HTTP servers of the calls")
    parser.add_argument(
        "--stored", type=_count, default=10_000, help="sessions in the store, also 100000 (default: %(default)s)"
    )
    parser.add_argument(
        "--streams", type=_count, help="open streams (default: 10000; each is a file of the process that has it)"
    )
    parser.add_argument("--axis", choices=[*AXES], action="append", help="one of the things that grow (default: all)")
    parser.add_argument("--reaped", type=_count, help="expired sessions of one turn of reaping (default: 50000)")
    parser.add_argument("--quick", action="store_true", help="two short rounds of everything: does it work?")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything measured to FILE (default: .bench/latest.json)"
    )
    where.add_argument("--publish", action="store_true", help="write each part and its picture into docs/benchmarks")
    parser.add_argument(
        "--url", help="Postgres server for a temporary database (default: MCPSESSION_TEST_URL, else a private one)"
    )
    parser.add_argument(
        "--same",
        action="store_true",
        help="the stock SDK, bare asyncpg and pg_notify against themselves: how far from 1.00 is this machine's noise?",
    )
    options = parser.parse_args(arguments)
    if options.publish and (options.quick or options.same):
        parser.error("--publish is for numbers that mean something: neither --quick nor --same")
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.reaped = options.reaped or (3_000 if options.quick else 50_000)
    options.streams = options.streams or (300 if options.quick else 10_000)
    return options


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


async def _until_done_or_sigterm(options: argparse.Namespace, report: Report) -> None:
    async with anyio.create_task_group() as tasks:
        # A signal unwinds like any other cancellation, so the servers end and the database goes with us.
        tasks.start_soon(_cancel_on_sigterm, tasks.cancel_scope)
        await _measure(options, report)
        report.done = True
        tasks.cancel_scope.cancel()


async def _cancel_on_sigterm(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def _measure(options: argparse.Namespace, report: Report) -> None:
    async with fresh_database(options.url) as database:
        report.machine = machine.describe(database.description)
        show_machine(report.machine, console)
        for name in [options.only] if options.only else USUAL if options.all else DEFAULT:
            part = PARTS[name]
            # Drawn when there is something new, and by no thread: it would take its time from what is measured.
            with Live(console=console, auto_refresh=False, transient=True) as live:
                report.parts[name] = await part.measure(
                    options,
                    database,
                    lambda text: live.update(Text(text, "dim"), refresh=True),
                )
            part.show(report.parts[name], console)


def _write(options: argparse.Namespace, report: Report) -> None:
    """Write the numbers down, and draw those that there is a picture of beside them."""
    if options.publish:
        files = {PUBLISHED / f"{PARTS[name].file}.json": report.as_json(name) for name in report.parts}
    else:
        files = {options.json or OWN / "latest.json": report.as_json()}
    for file, numbers in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(numbers, indent=2) + "\n")
        drawn = picture.draw_all(numbers, file.parent)
        console.print("\nWritten to " + ", ".join(str(path) for path in [file, *drawn]), style="dim")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


if __name__ == "__main__":
    sys.exit(main())
