"""The arithmetic of what so many sessions need, and the shape of what it is reckoned from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.budget import MEASURED, Load, reckon, told
from benchmarks.capacity import AT_ONCE
from benchmarks.capacity_report import CapacityResult, Cost, Room

MOVES = "a touch that moves the expiry"
WHAT = ["a session made", "a touch", MOVES, "a session read (cache miss)", "a finished call reaped", "a session reaped"]
CALLS = [f"a short call, {at_once} a batch" for at_once in AT_ONCE]
# A byte and a microsecond of each, and 10 of a call.
COSTS = [Cost(what, 1, 1e-6, 1.0, 1e-6) for what in WHAT] + [Cost(what, 1, 1e-5, 10.0, 1e-5) for what in CALLS]
ROOMS = [Room("a live session", 1, 1000)] + [
    Room(f"a finished call, {at_once} a batch", 1, 100 + at_once) for at_once in AT_ONCE
]
MEASUREMENT = CapacityResult(1, 1, COSTS, ROOMS).as_json()
LOAD = Load(sessions=36_000, calls=1.0, streams=0.0, life=1.0, replicas=1)


def test_a_load_is_reckoned_from_the_cost_of_one_of_each():
    need = reckon(replace(LOAD, cache_ttl=180.0), MEASUREMENT)

    assert 600 == need.calls
    assert 15 == need.calls_a_batch
    assert 600 == need.touches
    # Each session calls once a minute, and is found for three: one of four calls is a miss.
    assert 150 == pytest.approx(need.reads)
    assert 10 == need.born
    assert 36_000 + 600 * 600 == need.streams
    # Nearest to what was measured with 10 in a batch.
    assert 2 * (36_000 * 1000 + 600 * 600 * 110) == need.disk
    assert 2 * (10 + 10 + 600 + 150 + 6000 + 600) == pytest.approx(need.log)
    assert 1e-6 * (10 + 10 + 600 + 150 + 6000 + 600) == pytest.approx(need.cores)
    assert 9 == need.connections
    assert 27_000 == pytest.approx(need.cached)


def test_a_session_is_touched_once_a_flush_however_often_it_calls():
    assert 7200 == reckon(replace(LOAD, calls=6000.0), MEASUREMENT).touches


def test_an_open_stream_is_touched_with_each_comment_and_takes_memory():
    need = reckon(replace(LOAD, calls=0.0, streams=0.5, replicas=2), MEASUREMENT)
    assert 18_000 / 15 == need.touches
    assert 9000 * 31_300 == need.memory


def test_no_batch_is_larger_than_a_journal_s():
    assert 100 == reckon(replace(LOAD, calls=6000.0), MEASUREMENT).calls_a_batch
    assert 1 == reckon(replace(LOAD, calls=0.01), MEASUREMENT).calls_a_batch


def test_what_is_published_has_everything_that_is_reckoned_with():
    measured = json.loads(MEASURED.read_text())["capacity"]
    assert {cost["what"] for cost in measured["costs"]} == {*WHAT, *CALLS}
    assert told(LOAD, reckon(LOAD, measured)).count("\n") == 11
