"""The benchmark of the store: what it compares, and what it says of the numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio.lowlevel
import pytest

from benchmarks.store import OPERATIONS
from benchmarks.store_check import StatementsDifferError, check_statements
from benchmarks.store_layer import Layer
from benchmarks.store_raw import Raw
from benchmarks.store_report import Measured, StoreResult
from benchmarks.store_rows import Rows
from benchmarks.store_turn import Turn, whole, work
from mcpsession.model import new_session_id
from mcpsession.settings import Settings

SETTINGS = Settings(namespace="store", reap_every=None, pool_size=2)
RAW_SETTINGS = replace(SETTINGS, namespace="raw")

TURN = Turn(done=100, seconds=1.0, p50=0.01, p99=0.02, slowest=0.03, cpu=0.005)


async def test_the_raw_side_asks_of_postgres_exactly_what_the_layer_asks(database_url: str) -> None:
    """Otherwise the table would compare two different things."""
    async with (
        Layer.running(database_url, SETTINGS) as layer,
        Raw.running(database_url, RAW_SETTINGS) as raw,
        Rows.connected(database_url, SETTINGS) as rows,
    ):
        for side in (layer, raw):
            await rows.add(side.namespace, [new_session_id()])
        await check_statements([layer, raw], rows, OPERATIONS, listed=1)


async def test_a_side_that_asks_something_else_is_found_out(database_url: str) -> None:
    other = replace(RAW_SETTINGS, touch_step=SETTINGS.touch_step + 1)
    async with (
        Raw.running(database_url, SETTINGS) as one,
        Raw.running(database_url, other) as two,
        Rows.connected(database_url, SETTINGS) as rows,
    ):
        with pytest.raises(StatementsDifferError, match=r"touch: .* in statement 1"):
            await check_statements([one, two], rows, ["get", "touch"], listed=1)


async def test_workers_never_have_the_same_session_at_once_and_stop_when_the_sessions_are_up() -> None:
    seen: list[str] = []

    async def operation(session_id: str) -> None:
        seen.append(session_id)
        await anyio.lowlevel.checkpoint()

    turn = await work(operation, iter("abcdefg"), at_once=3, seconds=60)

    assert list("abcdefg") == sorted(seen)
    assert 7 == turn.done


async def test_each_of_some_large_operations_counts_as_what_it_is_made_of() -> None:
    asked: list[int] = []

    async def operation(number: int) -> None:
        asked.append(number)

    turn = await whole(operation, 500, times=2, counted=500)

    assert ([500, 500], 1000) == (asked, turn.done)


def test_a_ratio_is_taken_of_each_pair_of_turns() -> None:
    row = measured("get", store=[90, 100], raw=[100, 80])

    assert [0.9, 1.25] == row.ratios


def test_each_aim_is_reached_or_missed_by_its_own_row() -> None:
    rows = [
        *(measured(operation, store=[95], raw=[100]) for operation in ("get", "touch", "create", "update")),
        measured("delete", store=[95], raw=[100], p50=0.02),
        measured("list", store=[12], raw=[30], p50=0.08),
        measured("reap", store=[19_999], raw=[40_000]),
    ]

    assert [True, False, True, False] == [reached for reached, _ in result(rows).aims()]


def test_everything_measured_can_be_written_as_json() -> None:
    rows = [measured(name, store=[90], raw=[100]) for name in (*OPERATIONS, "list", "reap")]

    written = json.loads(json.dumps(result(rows).as_json()))

    assert [*OPERATIONS, "list", "reap"] == [row["operation"] for row in written["rows"]]
    assert {"median": 0.9, "min": 0.9, "max": 0.9} == written["rows"][0]["store_by_raw"]


def measured(operation: str, *, store: list[int], raw: list[int], p50: float = 0.001) -> Measured:
    turns = {
        side: [replace(TURN, done=done, p50=p50) for done in numbers]
        for side, numbers in (("store", store), ("raw", raw))
    }
    return Measured(operation, operation, 1, turns)


def result(rows: list[Measured]) -> StoreResult:
    titles = {"store": "layer.sessions", "raw": "asyncpg"}
    return StoreResult(titles, stored=10_000, listed=10_000, reaped=50_000, seconds=1.0, rounds=1, rows=rows)
