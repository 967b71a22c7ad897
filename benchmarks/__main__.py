"""Measure tool calls per second beside the stock SDK: `python -m benchmarks`."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
from rich.console import Console

from benchmarks import machine
from benchmarks.database import fresh_database
from benchmarks.load import Sample
from benchmarks.report import Result, show
from benchmarks.sides import Load, LoadFailedError, RunningSide, Side, ceiling, ours, running, stock
from examples.cluster import ProcessFailedError
from mcpsession.errors import MCPSessionError

console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    options = _parse(arguments)
    result: list[Result] = []
    failures: list[BaseException] = []
    try:
        anyio.run(_until_done_or_sigterm, options, result)
    except* (LoadFailedError, ProcessFailedError, MCPSessionError, OSError) as failed:
        failures = _leaves(failed)
    if failures:
        for error in failures:
            console.print(str(error), style="red", markup=False)
        return 1
    if not result:
        return 128 + signal.SIGTERM
    show(result[0], console)
    if options.json is not None:
        options.json.write_text(json.dumps(result[0].as_json(), indent=2) + "\n")
        console.print(f"Written to {options.json}", style="dim")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=_count, help="times that each side is measured (default: 5)")
    parser.add_argument("--seconds", type=float, help="measured seconds of each turn (default: 4)")
    parser.add_argument("--sessions", type=_count, default=8, help="concurrent sessions (default: %(default)s)")
    parser.add_argument(
        "--tool",
        choices=["echo", "echo_async"],
        default="echo",
        help="echo is a plain function, which the SDK runs in a thread",
    )
    parser.add_argument("--quick", action="store_true", help="two rounds of one second: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    parser.add_argument(
        "--url", help="Postgres server for a temporary database (default: MCPSESSION_TEST_URL, else a private one)"
    )
    parser.add_argument(
        "--same", action="store_true", help="the stock SDK against itself: how far from 1.00 is this machine's noise?"
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    return options


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


async def _until_done_or_sigterm(options: argparse.Namespace, result: list[Result]) -> None:
    async with anyio.create_task_group() as tasks:
        # A signal unwinds like any other cancellation, so the servers end and the database goes with us.
        tasks.start_soon(_cancel_on_sigterm, tasks.cancel_scope)
        result.append(await _measure(options))
        tasks.cancel_scope.cancel()


async def _cancel_on_sigterm(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def _measure(options: argparse.Namespace) -> Result:
    load = Load(options.sessions, options.seconds, warmup=min(1.0, options.seconds), tool=options.tool)
    if options.same:
        described = machine.describe("not used")
        return await _take_turns([stock(), stock("ours", "the same again"), ceiling()], load, options.rounds, described)
    async with fresh_database(options.url) as database:
        described = machine.describe(database.description)
        return await _take_turns([stock(), ours(database), ceiling()], load, options.rounds, described)


async def _take_turns(sides: Sequence[Side], load: Load, rounds: int, described: dict[str, str]) -> Result:
    samples: dict[str, list[Sample]] = {side.key: [] for side in sides}
    async with running(sides) as servers:
        with console.status("") as status:
            for number in range(rounds):
                for server in _order(servers, number):
                    status.update(f"round {number + 1} of {rounds}: {server.side.title}")
                    samples[server.side.key].append(await server.run(load))
    return Result({side.key: side.title for side in sides}, samples, load, described)


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
