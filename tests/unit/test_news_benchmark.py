"""The benchmark of news: what it hears, and what it says of the numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks import news_ears
from benchmarks.news_ears import Ear, NewsLostError, _Stream
from benchmarks.news_idle import Idle
from benchmarks.news_report import Latency, NewsResult, Rate, show_news

RESULT = NewsResult(
    rounds=2,
    seconds=1.0,
    latencies={
        "publish": [Latency(10, 0.002, 0.003, 0.004), Latency(10, 0.003, 0.004, 0.005)],
        "notify": [Latency(10, 0.001, 0.002, 0.003), Latency(10, 0.001, 0.002, 0.003)],
        "store": [Latency(10, 0.002, 0.003, 0.004), Latency(10, 0.002, 0.003, 0.004)],
    },
    published={1: [Rate(100, 1.0)], 16: [Rate(400, 1.0)]},
    followed=[Rate(400, 1.0)],
    caught_up=[Rate(400, 0.5)],
    idle=Idle(0.001, 2.0, 5.0),
    appends={"with": [90.0, 99.0], "without": [100.0, 100.0], "busy": [90.0, 90.0]},
    appends_cpu=0.1,
    same=False,
)


async def test_an_ear_hands_over_each_turn_by_itself() -> None:
    ear = Ear("test")
    ear.note(3.0, 1.0)
    assert [2.0] == await ear.take(1)
    ear.note(5.0, 4.0)
    assert [1.0] == await ear.take(1)


async def test_what_was_sent_and_did_not_come_or_came_twice_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_ears, "PATIENCE", 0.01)
    ear = Ear("test")
    ear.note(1.0, 0.0)
    with pytest.raises(NewsLostError, match="of 2 sent, 1 came"):
        await ear.take(2)
    ear.note(1.0, 0.0)
    with pytest.raises(NewsLostError, match="of 1 sent, 2 came"):
        await ear.take(1)


async def test_a_frame_is_taken_when_its_line_is_whole() -> None:
    ear = Ear("test")
    stream = _Stream(b"GET", ear)
    stream.data_received(b'HTTP/1.1 200 OK\r\n\r\n10\r\nid: s.0.1:1:\nevent: message\ndata: {"params":{"_me')
    assert stream.open.is_set()
    stream.data_received(b'ta":{"at":1.0}}}\n\n')
    assert 1 == len(await ear.take(1))


def test_each_round_is_compared_with_its_own_pair() -> None:
    assert [2.0, 3.0] == RESULT.latency_ratios("notify")
    assert [1.0, 1.5] == RESULT.latency_ratios("store")
    assert [0.9, 0.99] == RESULT.append_ratios("without")
    assert [1.0, 1.1] == RESULT.append_ratios("busy")


def test_what_was_aimed_at_is_said_to_be_reached_or_missed() -> None:
    assert [True, True, False] == [reached for reached, _ in RESULT.aims()]
    slower = replace(RESULT, latencies={**RESULT.latencies, "publish": [Latency(10, 0.006, 0.007, 0.008)] * 2})
    assert [False, False, False] == [reached for reached, _ in slower.aims()]
    assert [] == replace(RESULT, same=True).aims()


def test_everything_is_written_as_json_and_shown_within_80_columns() -> None:
    written = json.loads(json.dumps(RESULT.as_json()))
    assert 2.5 == written["publish_by_notify"]["median"]
    assert 800.0 == written["caught_up"]["per_second"]
    console = Console(width=80, record=True, highlight=False)
    show_news(RESULT, console)
    assert max(map(len, console.export_text().splitlines())) <= 80
