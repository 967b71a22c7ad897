"""Show where a replica's CPU time goes under the benchmark's load: `python -m benchmarks.profile`."""

import argparse
import dataclasses
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table

from benchmarks.database import fresh_database
from benchmarks.load import Sample
from benchmarks.sides import Load, Side, ours, running, stock

# Seconds for the server to write its profile down.
WRITTEN_WITHIN = 30.0

# The sampler's own code is only seen while its callback around a collection runs: what it shows is the collection.
COLLECTOR = "/benchmarks/sampler.py"

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Profile one side and print its functions by own time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--stock", action="store_true", help="the stock SDK instead of ours")
    parser.add_argument(
        "--exact", action="store_true", help="count calls and resumptions of coroutines (cProfile) instead of sampling"
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument(
        "--tool",
        choices=["echo", "echo_async"],
        default="echo",
        help="echo is a plain function, which the SDK runs in a thread",
    )
    parser.add_argument("--top", type=int, default=25, help="functions to show (default: %(default)s)")
    parser.add_argument("--within", default="", metavar="TEXT", help="only functions whose file's name contains TEXT")
    parser.add_argument("--sort", choices=["own", "total", "calls"], default="own", help="default: own time")
    parser.add_argument("--url", help="Postgres server for a temporary database (default: MCPSESSION_TEST_URL)")
    options = parser.parse_args()
    sample, profile = anyio.run(_profile, options)
    # Wide enough for a file and a function, also in a file or a pipe.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    _show(options, sample, profile, console)
    return 0


async def _profile(options: argparse.Namespace) -> tuple[Sample, dict[str, Any]]:
    load = Load(options.sessions, options.seconds, warmup=1.0, tool=options.tool)
    with TemporaryDirectory(prefix="mcpsession-profile-") as folder:
        path = Path(folder) / "profile.json"
        env = {"BENCH_PROFILE": str(path), "BENCH_PROFILE_EXACT": "1" if options.exact else "0"}
        async with _side(options) as side:
            side = dataclasses.replace(side, env={**side.env, **env})
            async with running([side]) as (server,):
                # Imports and first calls are not what the profile is for.
                await server.run(dataclasses.replace(load, seconds=1.0))
                os.kill(server.process.pid, signal.SIGUSR1)
                sample = await server.run(dataclasses.replace(load, warmup=0.0))
                os.kill(server.process.pid, signal.SIGUSR2)
                with anyio.fail_after(WRITTEN_WITHIN):
                    while not path.exists():  # noqa: ASYNC110 (another process makes the file)
                        await anyio.sleep(0.05)
        profile: dict[str, Any] = json.loads(path.read_text())
        return sample, profile


@asynccontextmanager
async def _side(options: argparse.Namespace) -> AsyncIterator[Side]:
    if options.stock:
        yield stock()
        return
    async with fresh_database(options.url) as database:
        yield ours(database)


def _show(options: argparse.Namespace, sample: Sample, profile: dict[str, Any], console: Console) -> None:
    name = "stock SDK" if options.stock else "mcpsession"
    how = "every call counted" if options.exact else "sampled"
    per_call = 1e6 * profile["cpu"] / sample.calls
    console.print(
        f"{name}, {how}: {sample.rate:,.0f} calls/s while profiled, {per_call:,.0f} µs CPU a call on the server, "
        f"{100 * profile['gc'] / profile['cpu']:.0f} % of it garbage collection"
    )
    rows = [row for row in profile["rows"] if options.within in row["function"][0]]
    rows.sort(key=lambda row: row.get(options.sort, row["own"]), reverse=True)
    table = Table(title="Functions", title_justify="left")
    for column in ("own %", "own µs/call", "total %", *(["times/call"] if options.exact else [])):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("function", overflow="fold")
    for row in rows[: options.top]:
        shares = (f"{100 * row['own']:.1f}", f"{row['own'] * per_call:.1f}", f"{100 * row['total']:.1f}")
        counts = [f"{row['calls'] / sample.calls:.2f}"] if options.exact else []
        table.add_row(*shares, *counts, _label(row["function"]))
    console.print(table)
    console.print(_by_package(profile["rows"], per_call))


def _by_package(rows: list[dict[str, Any]], per_call: float) -> Table:
    shares: Counter[str] = Counter()
    for row in rows:
        shares[_package(row["function"][0])] += row["own"]
    table = Table("package", title="Own time by package", title_justify="left")
    for column in ("own %", "own µs/call"):
        table.add_column(column, justify="right")
    for package, share in shares.most_common(16):
        table.add_row(package, f"{100 * share:.1f}", f"{share * per_call:.1f}")
    return table


def _package(file: str) -> str:
    """The package that a file belongs to: `mcpsession.sdk`, `pydantic`, `asyncio`, …"""
    if file.endswith(COLLECTOR):
        return "garbage collection"
    if file.startswith(str(ROOT / "mcpsession")):
        return ".".join(Path(file).relative_to(ROOT).with_suffix("").parts[:2])
    found = re.search(r"site-packages/([^/]+)", file) or re.search(r"python3\.\d+/([^/]+)", file)
    return found[1].removesuffix(".py") if found else file.strip("~<>") or "C functions"


def _label(function: tuple[str, int, str]) -> str:
    file, line, name = function
    if file.endswith(COLLECTOR):
        return f"garbage collection  ({name})"
    short = re.sub(r"^.*(site-packages/|python3\.\d+/)", "", file.removeprefix(f"{ROOT}/"))
    return name if file == "~" else f"{name}  ({short}:{line})"


if __name__ == "__main__":
    sys.exit(main())
