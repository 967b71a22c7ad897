"""The benchmark of the journal: who writes and reads what, and what it says of the numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import asyncpg
import pytest
from rich.console import Console

from benchmarks.journal_memory import Memory, measure
from benchmarks.journal_replay import Backlog, Replayed
from benchmarks.journal_report import JournalResult, show_journal
from benchmarks.journal_writing import Meter, Ours, Raw, Written


def turn(rate: float, statements: int | None = 1) -> Written:
    return Written(events=int(rate), seconds=1.0, statements=statements, cpu=0.5, postgres=0.25)


RESULT = JournalResult(
    titles={key: f"what {key} is" for key in ("raw", "messages", "calls", "mcp-persist")},
    ways={"raw": ("a SELECT", "raw"), "resume": ("a client", "raw")},
    seconds=1.0,
    rounds=2,
    backlog=1000,
    written={
        "raw": [turn(1000), turn(2000)],
        "messages": [turn(600), turn(1400)],
        "calls": [turn(100), turn(200)],
        "mcp-persist": [turn(100, None), turn(100, None)],
    },
    replayed={
        "raw": [Replayed(1000, 0.01, 0.005), Replayed(1000, 0.02, 0.005)],
        "resume": [Replayed(1000, 0.015, 0.01), Replayed(1000, 0.03, 0.01)],
    },
    memory=Memory(sessions=1000, resident=1500.0, allocated=1400.0, seconds=0.1),
    missing=None,
)


def test_ratios_are_of_the_turns_of_one_round() -> None:
    assert [0.6, 0.7] == RESULT.ratios("messages")
    assert [6.0, 14.0] == RESULT.ratios("messages", "mcp-persist")
    assert [1.5, 1.5] == RESULT.replay_ratios("resume")


def test_each_aim_is_reached_or_missed_by_its_own_row() -> None:
    assert [True, True, True, True] == [reached for reached, _ in RESULT.aims()]
    slow = replace(RESULT, written={**RESULT.written, "messages": [turn(400), turn(500)]})
    assert [False, False, True, True] == [reached for reached, _ in slow.aims()]
    large = replace(RESULT, memory=replace(RESULT.memory, resident=2049.0))
    assert [True, True, True, False] == [reached for reached, _ in large.aims()]
    late = replace(RESULT, replayed={**RESULT.replayed, "resume": [Replayed(1000, 0.05, 0.01)] * 2})
    assert [True, True, False, True] == [reached for reached, _ in late.aims()]


def test_without_other_peoples_store_its_aim_is_not_there_and_the_table_says_why() -> None:
    alone = {key: turns for key, turns in RESULT.written.items() if key != "mcp-persist"}
    result = replace(RESULT, written=alone, missing="nobody made its environment")
    assert 3 == len(result.aims())
    with (console := Console(width=80)).capture() as shown:
        show_journal(result, console)
    assert "nobody made its environment" in shown.get()


def test_what_is_measured_is_shown_within_80_columns_and_can_be_read_back() -> None:
    with (console := Console(width=80)).capture() as shown:
        show_journal(RESULT, console)
    assert "…" not in shown.get()
    assert "reached" in shown.get()

    told = json.loads(json.dumps(RESULT.as_json()))
    assert {"median": 0.65, "min": 0.6, "max": 0.7} == pytest.approx(told["written"]["messages"]["by_raw"])
    assert None is told["written"]["mcp-persist"]["statements"]
    assert 1500.0 == told["memory"]["resident"]


async def test_what_a_side_says_that_it_wrote_is_in_the_table(database_url: str) -> None:
    meter = Meter(None)
    async with Raw.running(database_url, meter) as raw, Ours.running(database_url, meter) as ours:
        written = [await side.write(0.05) for side in (raw, ours.with_streams_of(7, "few", "streams of seven"))]
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT namespace, count(*) FROM mcpsession.events GROUP BY 1 ORDER BY 1 DESC")
    await connection.close()

    assert [("raw", written[0].events), ("journal", written[1].events)] == [tuple(row) for row in rows]
    assert 0 == written[1].events % 7
    assert 0 < (written[1].statements or 0) < written[1].events


async def test_every_way_to_replay_reads_the_whole_backlog(database_url: str) -> None:
    async with Backlog.stored(database_url, 50) as backlog:
        assert [50] * 4 == [(await backlog.measure(way)).events for way in backlog.ways()]


async def test_a_cached_session_costs_less_than_2_kb(database_url: str) -> None:
    """As Python counts it; the benchmark asks the operating system as well, over many more."""
    assert (await measure(database_url, 500)).allocated < 2048
