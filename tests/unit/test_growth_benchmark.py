"""The benchmark of growth: what its client makes of bytes, what it says of the numbers, and that all of it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks.client import WrongAnswerError
from benchmarks.database import Database
from benchmarks.drawing import draw
from benchmarks.growth import growth_load, measure_growth
from benchmarks.growth_client import Job, check
from benchmarks.growth_line import Line, Response
from benchmarks.growth_picture import growth_panels
from benchmarks.growth_report import Axis, Column, GrowthResult, Row, show_growth
from benchmarks.growth_server import some_text

COLUMNS = [Column("rate", "calls/s"), Column("Postgres", "Postgres", 1e6), Column("cpu", "µs", 1e6, 1)]
ROWS = [
    Row("1 replica", 1, [{"rate": 1000.0, "cpu": 0.001}, {"rate": 2000.0, "cpu": 0.002}]),
    Row("2 replicas", 2, [{"rate": 1000.0, "cpu": 0.0011}, {"rate": 1000.0, "cpu": 0.0022}]),
    Row("3 replicas", 3, [{"rate": 1000.0, "cpu": 0.0013}, {"rate": 1000.0, "cpu": 0.0026}]),
]
AXIS = Axis("replicas", "Calls by replicas", "cpu", "a call", COLUMNS, ROWS, "what the columns are")
RESULT = GrowthResult([AXIS], rounds=2, seconds=3.0)

HEAD = b"HTTP/1.1 200 OK\r\nMcp-Session-Id: abc\r\n"
FRAMES = b'id: t.0\ndata: \n\nid: t.1\nevent: message\ndata: {"id":7,"result":{}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_response_is_whole_with_its_last_chunk_however_its_bytes_come(size: int) -> None:
    line = Line("http://a.test:1/mcp")
    expected = line.expect()
    whole = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(FRAMES[:20]) + chunk(FRAMES[20:]) + chunk(b"")
    for start in range(0, len(whole), size):
        assert not expected.done()
        line.data_received(whole[start : start + size])
    response = expected.result()
    assert (200, FRAMES, "abc") == (response.status, response.body, response.header(b"mcp-session-id"))


async def test_a_response_of_known_length_is_whole_with_its_last_byte_and_then_comes_the_next() -> None:
    line = Line("http://a.test:1/mcp")
    expected = line.expect()
    line.data_received(HEAD + b"content-length: %d\r\n\r\n" % len(FRAMES) + FRAMES[:-1])
    assert not expected.done()
    line.data_received(FRAMES[-1:])
    assert (200, FRAMES) == (expected.result().status, expected.result().body)
    expected = line.expect()
    line.data_received(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
    assert (202, b"") == (expected.result().status, expected.result().body)


async def test_a_connection_that_is_lost_in_a_response_is_no_measurement() -> None:
    line = Line("http://a.test:1/mcp")
    expected = line.expect()
    line.data_received(HEAD)
    line.connection_lost(None)
    with pytest.raises(EOFError):
        await expected


def test_a_response_is_read_by_its_messages_and_by_the_numbers_of_its_events() -> None:
    response = Response(200, HEAD, FRAMES, 0.0, 0.0)
    assert [{"id": 7, "result": {}}] == response.messages()
    assert [0, 1] == response.numbers()


def test_an_answer_that_is_not_the_expected_one_is_no_measurement() -> None:
    job = Job(["http://a.test:1"], 1.0, 0.0, tool="say", size=3)
    answer = {"id": 7, "result": {"content": [{"text": "abc"}], "isError": False}}
    check(job, "", 7, [answer])
    for wrong in (
        [],
        [answer | {"id": 8}],
        [{"id": 7, "error": {}}],
        [answer, answer],
        [{"id": 7, "result": {"content": [{"text": "abcd"}], "isError": False}}],
    ):
        with pytest.raises(WrongAnswerError):
            check(job, "", 7, wrong)


def test_texts_have_their_size_and_differ() -> None:
    assert [1024, 1024] == [len(some_text(1024)), len(some_text(1024))]
    assert some_text(1024) != some_text(1024)


def test_a_ratio_is_taken_of_each_round_and_what_costs_a_quarter_more_is_not_flat() -> None:
    assert pytest.approx([1.1, 1.1]) == AXIS.ratios(ROWS[1])
    assert [True, True, False] == [AXIS.is_flat(row) for row in ROWS]
    # Nobody watched Postgres: nothing is said of it.
    assert [] == AXIS.ratios(ROWS[1], "Postgres")


def test_everything_is_written_as_json_drawn_from_it_and_shown_within_80_columns() -> None:
    written = json.loads(json.dumps(RESULT.as_json()))
    row = written["axes"]["replicas"]["rows"][2]
    assert {"rate", "cpu"} == set(row["by_first"])
    assert (1000.0, None, False) == (row["rate"], row["Postgres"], row["flat"])
    assert pytest.approx(1.3) == row["by_first"]["cpu"]["median"]

    picture = ElementTree.fromstring(draw("Growth", growth_panels(written)))
    texts = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert any("1.30 times the first" in text for text in texts)

    console = Console(width=80, record=True, highlight=False)
    show_growth(RESULT, console)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    # Nothing was cut to fit.
    assert "…" not in shown


async def test_an_axis_is_measured_with_a_replica_and_clients_in_processes_of_their_own(database_url: str) -> None:
    load = replace(growth_load(quick=True, rounds=1, seconds=0.1, axes=["concurrency"]), warmup=0.1, at_once=(1, 2))
    said: list[str] = []
    result = await measure_growth(Database(database_url, "", None), load, said.append)
    [axis] = result.axes
    assert ["1 at once", "2 at once"] == [row.label for row in axis.rows]
    assert all((row.median("rate") or 0) > 0 and (row.median("cpu") or 0) > 0 for row in axis.rows)
    # Nobody told which process Postgres is.
    assert [None, None] == [row.median("Postgres") for row in axis.rows]
    assert ["1 at once, round 1 of 1", "2 at once, round 1 of 1"] == said
