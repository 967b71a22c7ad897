"""The benchmark of many open streams: what its clients hear, and what it says of the numbers."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from benchmarks import streams_client
from benchmarks.streams_client import Ears, Stream
from benchmarks.streams_report import Heard, Memory, Rest, StreamsResult, show_streams

RESULT = StreamsResult(
    streams=1000,
    replicas=2,
    sessions_opened=2.0,
    streams_opened=1.0,
    memory=Memory([2**20, 2**20], [2 * 2**20, 3 * 2**20], 2**20, 2**20),
    rest=Rest(10.0, [0.01, 0.02], None, 4.0),
    heard=[Heard(1000, 0, 0.01, 0.02, 0.03), Heard(1000, 0, 0.01, 0.02, 0.05), Heard(1000, 0, 0.01, 0.02, 0.04)],
)


async def test_an_open_stream_is_known_by_its_first_id_and_each_message_is_taken_once_it_is_whole() -> None:
    ears = Ears()
    stream = Stream(b"GET", ears)
    stream.data_received(b"HTTP/1.1 200 OK\r\n\r\n10\r\nretry: 1000\n\n")
    assert stream.open is not None
    assert not stream.open.done()
    stream.data_received(b'10\r\nid: s.0.1:1:\ndata: \n\nid: s.0.2:2:\nevent: message\ndata: {"params":{"_me')
    assert stream.open.done()
    assert [] == ears.latencies
    stream.data_received(b'ta":{"at":1.0}}}\n\n')
    assert 1 == len(ears.latencies)


async def test_what_is_heard_is_counted_with_those_that_heard_nothing_or_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_client, "PATIENCE", 0.01)
    ears = Ears()
    ears.streams = 4
    for latency in (0.3, 0.1, 0.2):
        ears.note(latency)
    stream = Stream(b"GET", ears)
    stream.connection_lost(None)
    with pytest.raises(EOFError):
        await stream.open
    assert {"heard": 3, "lost": 1, "first": 0.1, "median": 0.2, "last": 0.3} == await ears.take()
    assert 0 == (await ears.take())["heard"]


def test_memory_is_told_by_stream_and_the_last_one_by_publication() -> None:
    written = RESULT.as_json()
    assert 3 * 2**20 / 1000 == written["memory"]["per_stream"]
    assert {"median": 0.04, "max": 0.05} == written["last"]


def test_what_is_shown_fits_a_narrow_terminal_and_names_what_it_cannot_watch() -> None:
    console = Console(width=80, record=True, file=StringIO(), highlight=False)
    show_streams(RESULT, console)
    lines = console.export_text().splitlines()
    assert "  memory       3.1 KiB a stream; replicas 1 to 2, 1 to 3 MiB" in lines
    assert "  at rest      ms of CPU a second: replicas 10, 20" in lines
    assert 3 == len([line for line in lines if line.startswith("  heard by     1,000: ")])
