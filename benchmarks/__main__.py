"""Measure tool calls beside the stock SDK, the session store beside bare asyncpg, news beside a bare pg_notify, and how
long a client waits that turns to another replica: `python -m benchmarks`."""

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

from benchmarks import machine
from benchmarks.client import WrongAnswerError
from benchmarks.compression import CompressionLoad, measure_compression
from benchmarks.compression_report import CompressionResult, show_compression
from benchmarks.database import Database, fresh_database
from benchmarks.failover import FailoverLoad, measure_failover
from benchmarks.failover_report import FailoverResult, show_failover
from benchmarks.load import Sample
from benchmarks.news import NewsLoad, measure_news
from benchmarks.news_ears import NewsLostError
from benchmarks.news_report import NewsResult, show_news
from benchmarks.report import Result, show, show_machine
from benchmarks.sides import Load, LoadFailedError, RunningSide, Side, ceiling, ours, running, stock
from benchmarks.store import StoreLoad, measure_store
from benchmarks.store_check import StatementsDifferError
from benchmarks.store_layer import WrongResultError
from benchmarks.store_report import StoreResult, show_store
from benchmarks.streams import StreamsLoad, measure_streams
from benchmarks.streams_report import StreamsResult, show_streams
from examples.cluster import ProcessFailedError
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

console = Console(highlight=False)


@dataclass
class Report:
    """What a run has measured so far; shown as it comes."""

    machine: dict[str, str] = field(default_factory=dict)
    calls: Result | None = None
    store: StoreResult | None = None
    news: NewsResult | None = None
    failover: FailoverResult | None = None
    compression: CompressionResult | None = None
    streams: StreamsResult | None = None
    done: bool = False

    def as_json(self) -> dict[str, Any]:
        parts = {
            "calls": self.calls,
            "store": self.store,
            "news": self.news,
            "failover": self.failover,
            "compression": self.compression,
            "streams": self.streams,
        }
        return {"machine": self.machine, **{name: part.as_json() for name, part in parts.items() if part is not None}}


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
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
        console.print(f"\nWritten to {options.json}", style="dim")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        choices=["calls", "store", "news", "failover", "compression", "streams"],
        help="one of the tables (default: all but compression, which answered a question of design, and streams, "
        "which take minutes)",
    )
    parser.add_argument("--rounds", type=_count, help="times that each side is measured (default: 5)")
    parser.add_argument(
        "--seconds",
        type=float,
        help="measured seconds of each turn (default: 4 of calls, 1 of the store, 2 of news, …)",
    )
    parser.add_argument("--sessions", type=_count, default=8, help="concurrent sessions (default: %(default)s)")
    parser.add_argument(
        "--tool",
        choices=["echo", "echo_async"],
        default="echo",
        help="echo is a plain function, which the SDK runs in a thread",
    )
    parser.add_argument(
        "--stored", type=_count, default=10_000, help="sessions in the store, also 100000 (default: %(default)s)"
    )
    parser.add_argument(
        "--streams", type=_count, help="open streams (default: 10000; each is a file of the process that has it)"
    )
    parser.add_argument("--reaped", type=_count, help="expired sessions of one turn of reaping (default: 50000)")
    parser.add_argument("--quick", action="store_true", help="two short rounds of everything: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    parser.add_argument(
        "--url", help="Postgres server for a temporary database (default: MCPSESSION_TEST_URL, else a private one)"
    )
    parser.add_argument(
        "--same",
        action="store_true",
        help="the stock SDK, bare asyncpg and pg_notify against themselves: how far from 1.00 is this machine's noise?",
    )
    options = parser.parse_args(arguments)
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
        if options.only in (None, "calls"):
            report.calls = await _measure_calls(options, database)
            show(report.calls, console)
        if options.only in (None, "store"):
            report.store = await _measure_store(options, database)
            show_store(report.store, console)
        if options.only in (None, "news"):
            report.news = await _measure_news(options, database)
            show_news(report.news, console)
        if options.only in (None, "failover"):
            report.failover = await _measure_failover(options, database)
            show_failover(report.failover, console)
        if options.only == "compression":
            report.compression = await _measure_compression(options, database)
            show_compression(report.compression, console)
        if options.only == "streams":
            report.streams = await _measure_streams(options, database)
            show_streams(report.streams, console)


async def _measure_calls(options: argparse.Namespace, database: Database) -> Result:
    seconds = options.seconds or (0.5 if options.quick else 4.0)
    load = Load(options.sessions, seconds, warmup=min(1.0, seconds), tool=options.tool)
    other = stock("ours", "the same again") if options.same else ours(database)
    return await _take_turns([stock(), other, ceiling()], load, options.rounds)


async def _measure_store(options: argparse.Namespace, database: Database) -> StoreResult:
    seconds = options.seconds or (0.05 if options.quick else 1.0)
    lists = 1 if options.quick else 5
    load = StoreLoad(options.stored, options.reaped, seconds, options.rounds, lists, same=options.same)
    # Drawn when there is something new, and by no thread: it would take its time from what is measured.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return await measure_store(database.url, load, lambda text: live.update(Text(text, "dim"), refresh=True))


async def _measure_news(options: argparse.Namespace, database: Database) -> NewsResult:
    seconds = options.seconds or (0.3 if options.quick else 2.0)
    times, idle = (50, 1.0) if options.quick else (200, 10.0)
    load = NewsLoad(times, seconds, idle, options.rounds, same=options.same)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return await measure_news(database.url, load, lambda text: live.update(Text(text, "dim"), refresh=True))


async def _measure_failover(options: argparse.Namespace, database: Database) -> FailoverResult:
    # One round of faults takes about 7 s: 3 s until a death is recorded, and what a process needs to start.
    rounds = options.rounds
    load = (
        FailoverLoad(rounds, 10, 10, 5, rounds, 20)
        if options.quick
        else FailoverLoad(rounds, 40, 40, 20, 2 * rounds, 20)
    )
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return await measure_failover(database.url, load, lambda text: live.update(Text(text, "dim"), refresh=True))


async def _measure_compression(options: argparse.Namespace, database: Database) -> CompressionResult:
    load = CompressionLoad(options.rounds, options.seconds or (0.05 if options.quick else 0.3))
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return await measure_compression(database.url, load, lambda text: live.update(Text(text, "dim"), refresh=True))


async def _measure_streams(options: argparse.Namespace, database: Database) -> StreamsResult:
    load = StreamsLoad(options.streams, options.seconds or 30.0, times=3)
    if options.quick:
        load = StreamsLoad(options.streams, options.seconds or 1.0, times=1, settled=0.0)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return await measure_streams(database, load, lambda text: live.update(Text(text, "dim"), refresh=True))


async def _take_turns(sides: Sequence[Side], load: Load, rounds: int) -> Result:
    samples: dict[str, list[Sample]] = {side.key: [] for side in sides}
    async with running(sides) as servers:
        with console.status("") as status:
            for number in range(rounds):
                for server in _order(servers, number):
                    status.update(f"round {number + 1} of {rounds}: {server.side.title}")
                    samples[server.side.key].append(await server.run(load))
    return Result({side.key: side.title for side in sides}, samples, load)


def _order(servers: Sequence[RunningSide], number: int) -> Sequence[RunningSide]:
    """Turn the order round from one round to the next, so that a machine that gets slower is fair to both."""
    return servers if number % 2 == 0 else servers[::-1]


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


if __name__ == "__main__":
    sys.exit(main())
