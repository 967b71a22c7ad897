"""What can be measured, each with how it is shown: one entry for each table of `python -m benchmarks`."""

from argparse import Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.calls import CallsLoad, measure_calls
from benchmarks.capacity import measure_capacity
from benchmarks.capacity_report import CapacityResult, show_capacity
from benchmarks.compression import CompressionLoad, measure_compression
from benchmarks.compression_report import CompressionResult, show_compression
from benchmarks.database import Database
from benchmarks.failover import FailoverLoad, measure_failover
from benchmarks.failover_report import FailoverResult, show_failover
from benchmarks.growth import growth_load, measure_growth
from benchmarks.growth_report import GrowthResult, show_growth
from benchmarks.journal import JournalLoad, measure_journal
from benchmarks.journal_report import JournalResult, show_journal
from benchmarks.news import NewsLoad, measure_news
from benchmarks.news_report import NewsResult, show_news
from benchmarks.report import CallsResult, show
from benchmarks.sides import Load
from benchmarks.store import StoreLoad, measure_store
from benchmarks.store_report import StoreResult, show_store
from benchmarks.streams import StreamsLoad, measure_streams
from benchmarks.streams_report import StreamsResult, show_streams

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One table; what `measure` returns has `as_json`."""

    measure: Callable[[Namespace, Database, Say], Awaitable[Any]]
    show: Callable[[Any, Console], None]
    file: str
    """The name of what is published of it, without its ending."""


async def _calls(options: Namespace, database: Database, say: Say) -> CallsResult:
    seconds = options.seconds or (0.4 if options.quick else 2.0)
    load = Load(options.sessions, seconds, warmup=min(0.5, seconds), tool=options.tool)
    http = [options.http] if options.http else ["h11"] if options.quick else ["h11", "httptools"]
    # A p99 needs more calls than a rate does.
    return await measure_calls(
        database, CallsLoad(load, options.rounds, paced_seconds=1.5 * seconds, same=options.same, http=http), say
    )


async def _store(options: Namespace, database: Database, say: Say) -> StoreResult:
    seconds = options.seconds or (0.05 if options.quick else 1.0)
    lists = 1 if options.quick else 5
    load = StoreLoad(options.stored, options.reaped, seconds, options.rounds, lists, same=options.same)
    return await measure_store(database.url, load, say)


async def _news(options: Namespace, database: Database, say: Say) -> NewsResult:
    seconds = options.seconds or (0.3 if options.quick else 2.0)
    times, idle = (50, 1.0) if options.quick else (200, 10.0)
    return await measure_news(database.url, NewsLoad(times, seconds, idle, options.rounds, same=options.same), say)


async def _journal(options: Namespace, database: Database, say: Say) -> JournalResult:
    seconds = options.seconds or (0.2 if options.quick else 2.0)
    backlog, sessions = (1_000, 1_000) if options.quick else (10_000, 20_000)
    load = JournalLoad(seconds, options.rounds, backlog, sessions, same=options.same)
    return await measure_journal(database, load, say)


async def _failover(options: Namespace, database: Database, say: Say) -> FailoverResult:
    # One round of faults takes about 7 s: 3 s until a death is recorded, and what a process needs to start.
    rounds = options.rounds
    load = (
        FailoverLoad(rounds, 10, 10, 5, rounds, 20)
        if options.quick
        else FailoverLoad(rounds, 40, 40, 20, 2 * rounds, 20)
    )
    return await measure_failover(database.url, load, say)


async def _compression(options: Namespace, database: Database, say: Say) -> CompressionResult:
    load = CompressionLoad(options.rounds, options.seconds or (0.05 if options.quick else 0.3))
    return await measure_compression(database.url, load, say)


async def _growth(options: Namespace, database: Database, say: Say) -> GrowthResult:
    # Each row is a process that starts, warms up and ends: more rounds would be more than six minutes.
    rounds = 1 if options.quick else min(options.rounds, 3)
    load = growth_load(quick=options.quick, rounds=rounds, seconds=options.seconds, axes=options.axis)
    return await measure_growth(database, load, say)


async def _streams(options: Namespace, database: Database, say: Say) -> StreamsResult:
    load = StreamsLoad(options.streams, options.seconds or 30.0, times=3)
    if options.quick:
        load = StreamsLoad(options.streams, options.seconds or 1.0, times=1, settled=0.0)
    return await measure_streams(database, load, say)


async def _capacity(options: Namespace, database: Database, say: Say) -> CapacityResult:
    sessions, calls = (1000, 300) if options.quick else (100_000, 20_000)
    return await measure_capacity(database, sessions, calls, say)


PARTS = {
    "calls": Part(_calls, show, "calls"),
    "journal": Part(_journal, show_journal, "journal"),
    "store": Part(_store, show_store, "session-store"),
    "news": Part(_news, show_news, "news"),
    "failover": Part(_failover, show_failover, "failover"),
    # Answered a question of design.
    "compression": Part(_compression, show_compression, "compression"),
    # What docs/scaling.md reckons with; it compares nothing.
    "capacity": Part(_capacity, show_capacity, "capacity"),
    # These two take minutes.
    "growth": Part(_growth, show_growth, "growth"),
    "streams": Part(_streams, show_streams, "streams"),
}

# What runs when nothing is named, and with --all.
DEFAULT = ("calls", "journal")
USUAL = ("calls", "journal", "store", "news", "failover")
