"""The benchmark of fail-over: what its client makes of bytes, and what it says of the numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks import failover_client
from benchmarks.client import WrongAnswerError
from benchmarks.failover import expect
from benchmarks.failover_client import Arrived, Reply
from benchmarks.failover_report import ONE_BY_ONE, CatchUp, FailoverResult, Kill, Times, show_failover

TIMES = Times([[0.001, 0.003, 0.002], [0.004, 0.004, 0.004]])
RESULT = FailoverResult(
    settings={"beat": 1.0, "dead_after": 3.0},
    times={**dict.fromkeys(ONE_BY_ONE, TIMES), "answered elsewhere": Times([[0.004, 0.006, 0.005], [0.008] * 3])},
    kills=[Kill(2.0, 0.01), Kill(4.0, 0.03), Kill(3.0, 0.02)],
    news=20,
    dropped=[CatchUp(0.1, 0.02), CatchUp(0.3, 0.02)],
    listening=[CatchUp(0.03, 0.02), CatchUp(0.03, 0.02)],
)

HEAD = b"HTTP/1.1 200 OK\r\nMcp-Session-Id: abc\r\ntransfer-encoding: chunked\r\n\r\n"
PRIMING = b"id: t.0\nretry: 1000\ndata: \n\n"
PROGRESS = b'id: t.1\nevent: message\ndata: {"method":"notifications/progress"}\n\n'
FINAL = b'id: t.2\nevent: message\ndata: {"id":7,"result":{}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_message_has_the_moment_at_which_its_last_byte_came() -> None:
    reply = Reply("test")
    reply.feed(HEAD + chunk(PRIMING), 1.0)
    assert [] == reply.arrived
    reply.feed(chunk(PROGRESS)[:30], 2.0)
    assert [] == reply.arrived
    reply.feed(chunk(PROGRESS)[30:] + chunk(FINAL[:40]), 3.0)
    reply.feed(chunk(FINAL[40:]), 4.0)

    assert [(3.0, "t.1"), (4.0, "t.2")] == [(one.at, one.id) for one in reply.arrived]
    assert "t.2" == reply.last_id
    assert (200, "abc", False) == (reply.status, reply.session_id, reply.ended)


def test_a_response_is_complete_with_its_last_chunk_or_its_last_byte() -> None:
    chunked, counted = Reply("test"), Reply("test")
    chunked.feed(HEAD + chunk(FINAL) + b"0\r\n\r\n", 1.0)
    counted.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(FINAL), FINAL[:-1]), 1.0)
    assert not counted.complete
    counted.feed(FINAL[-1:], 2.0)
    assert [True, True] == [chunked.complete, counted.complete]
    assert [1, 1] == [len(chunked.arrived), len(counted.arrived)]


async def test_the_response_is_found_among_the_messages_of_its_stream() -> None:
    reply = Reply("test")
    reply.feed(HEAD + chunk(PROGRESS) + chunk(FINAL), 1.0)
    assert "t.2" == (await reply.final(7)).id


async def test_what_ends_without_its_response_is_no_measurement() -> None:
    reply = Reply("test")
    reply.feed(HEAD + chunk(PROGRESS), 1.0)
    reply.lose()
    with pytest.raises(WrongAnswerError):
        await reply.final(7)


async def test_what_does_not_come_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover_client, "PATIENCE", 0.01)
    reply = Reply("test")
    reply.feed(HEAD, 1.0)
    with pytest.raises(WrongAnswerError):
        await reply.message(0)


def test_another_result_than_the_expected_is_no_measurement() -> None:
    right = {"id": 7, "result": {"isError": False, "content": [{"type": "text", "text": "walked"}]}}
    expect(Arrived(1.0, "t.2", right), "walked", "a call")
    for wrong in ({"id": 7, "error": {"code": 0}}, {"id": 7, "result": {**right["result"], "isError": True}}):  # type: ignore[dict-item]
        with pytest.raises(WrongAnswerError):
            expect(Arrived(1.0, "t.2", wrong), "walked", "a call")


def test_percentiles_are_of_all_rounds_and_ratios_of_each_rounds_medians() -> None:
    assert 0.003 == TIMES.p50
    assert [2.5, 2.0] == RESULT.across


def test_the_aim_counts_for_the_slowest_of_all_kills() -> None:
    assert [True] == [reached for reached, _ in RESULT.aims()]
    slower = replace(RESULT, kills=[*RESULT.kills, Kill(5.1, 0.01)])
    assert [(False, "kill -9 to the resuming client's answer under 5 s: 5.10 s at most")] == slower.aims()


def test_everything_is_written_as_json_and_shown_within_80_columns() -> None:
    written = json.loads(json.dumps(RESULT.as_json()))
    assert {"median": 3.0, "min": 2.0, "max": 4.0} == written["kill"]["final"]
    assert 0.2 == written["catch_up"]["dropped"]["last"]["median"]
    assert [0.002, 0.004] == written["times"]["asked"]["p50_by_round"]
    assert set(ONE_BY_ONE) == set(written["times"])

    console = Console(width=80, record=True, highlight=False)
    show_failover(RESULT, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    # Nothing was cut to fit.
    assert "…" not in text
