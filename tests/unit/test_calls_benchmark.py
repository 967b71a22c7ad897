"""The benchmark of tool calls: what its load counts, and what it says of the numbers."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import peers
from benchmarks.arrivals import arrivals
from benchmarks.canned import Canned
from benchmarks.client import Connection, WrongAnswerError, whole_answer
from benchmarks.load import Sample, measure, measure_at_rate
from benchmarks.paced_report import Paced
from benchmarks.report import CallsResult, Result, show
from benchmarks.sides import Load

SAMPLE = Sample(calls=1000, seconds=1.0, p50=0.001, p99=0.002, slowest=0.01, load_cpu=0.1, cpu={"server": 0.5})

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
PLAIN = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok"

# Seconds for which a server answers nobody.
STALL = 0.3


@pytest.mark.parametrize(("response", "status", "body"), [(CHUNKED, 200, b"hello world"), (PLAIN, 202, b"ok")])
def test_a_response_is_whole_only_with_its_last_byte(response: bytes, status: int, body: bytes) -> None:
    assert [None] * len(response) == [whole_answer(response[:length]) for length in range(len(response))]

    answer = whole_answer(response)

    assert answer is not None
    assert (status, body) == (answer.status, answer.body)


@pytest.mark.parametrize("response", [CHUNKED + b"H", PLAIN + b"H"])
def test_more_than_was_asked_for_is_an_error_rather_than_an_answer(response: bytes) -> None:
    with pytest.raises(ValueError, match="after the end"):
        whole_answer(response)


async def test_a_connection_that_ends_or_answers_nonsense_fails_the_call_instead_of_hanging() -> None:
    nonsense = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n"
    for rest, error in ((b"", EOFError), (nonsense, WrongAnswerError)):
        connection = Connection()
        connection.connection_made(_Nowhere())
        calling = asyncio.create_task(connection.send(b"GET"))
        await asyncio.sleep(0)
        if rest:
            connection.data_received(rest)
        connection.connection_lost(None)
        with pytest.raises(error):
            await calling


def test_the_times_of_an_open_loop_are_the_same_for_all_sides_and_come_at_the_rate_asked_for() -> None:
    times = list(arrivals(1000, 10.0, seed=1))

    assert times == list(arrivals(1000, 10.0, seed=1))
    assert times != list(arrivals(1000, 10.0, seed=2))
    assert times == sorted(times)
    assert 10_000 == pytest.approx(len(times), rel=0.05)


async def test_calls_that_were_due_while_the_server_slept_count_from_when_they_were_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A closed loop would have sent one call and then waited with the rest: coordinated omission."""
    monkeypatch.setattr(_Stalling, "awake_at", None)
    async with _served(_Stalling) as url:
        sample = await measure_at_rate(
            url, tool="echo", sessions=2, seconds=0.4, warmup=0.0, watched={}, rate=200.0, seed=1
        )

    due = list(arrivals(200.0, 0.4, seed=1))
    meanwhile = sum(1 for moment in due if moment < due[0] + STALL)
    assert len(due) == sample.calls
    # Two were under way; all the others of that time found no session.
    assert meanwhile - 2 <= sample.held_back
    assert STALL <= sample.slowest
    # Three of four were due while it slept, and each of them counts with what it waited.
    assert STALL / 6 <= sample.p50


async def test_a_server_that_never_catches_up_is_measured_to_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue began in the warm-up, so no measured call found a free session."""
    monkeypatch.setattr(_Stalling, "awake_at", None)
    async with _served(_Stalling) as url:
        sample = await measure_at_rate(
            url, tool="echo", sessions=1, seconds=0.1, warmup=0.1, watched={}, rate=200.0, seed=1
        )

    assert 0 < sample.calls == sample.held_back


async def test_a_closed_loop_counts_what_ended_in_the_measured_time() -> None:
    async with _served(Canned) as url:
        sample = await measure(url, tool="echo", sessions=2, seconds=0.1, warmup=0.05, watched={})

    assert 10 < sample.calls
    assert 0 < sample.p50 <= sample.p99 <= sample.slowest
    assert sample.rate == sample.calls / sample.seconds


def test_a_ratio_is_taken_within_each_round() -> None:
    calls = result(stock=[100, 200], ours=[400, 600]).results[0]

    assert [4.0, 3.0] == calls.ratios("ours")
    assert {"median": 3.5, "min": 3.0, "max": 4.0} == calls.as_json()["sides"]["ours"]["by_stock"]


def test_each_aim_is_judged_against_the_best_that_the_peer_can_do() -> None:
    calls = result(stock=[100], ours=[500], strict=[140], **{"mcp-persist": [50], "mcp-persist-batched": [80]})

    aims = calls.results[0].aims()

    assert [True, False, False, True] == [reached for reached, _ in aims]
    assert "mcp-persist-batched" == calls.results[0].best_persist
    assert "6.25" in aims[1][1]


def test_a_peer_that_is_not_there_has_no_aim_and_is_named() -> None:
    calls = result({"mcp-persist": "offline"}, stock=[100], ours=[500], strict=[140])

    assert 3 == len(calls.results[0].aims())
    assert "left out: mcp-persist (offline)" in shown(calls)


@pytest.mark.parametrize(("ceiling", "load_cpu", "fine"), [(1500, 0.1, True), (1400, 0.1, False), (1500, 0.7, False)])
def test_a_load_that_may_have_slowed_a_side_down_is_told(ceiling: int, load_cpu: float, fine: bool) -> None:
    calls = result(load_cpu=load_cpu, stock=[100], ours=[500], ceiling=[ceiling])

    assert fine == ("is not the bottleneck" in shown(calls))
    assert fine == ("MAY BE THE BOTTLENECK" not in shown(calls))


def test_what_is_shown_fits_a_narrow_terminal_and_leaves_out_what_cannot_be_watched() -> None:
    text = shown(result(stock=[100_000], ours=[500_000], strict=[140_000], **{"mcp-persist-batched": [80_000]}))

    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "nan" not in text


def test_a_side_that_could_not_keep_up_is_told() -> None:
    assert "stock could not keep up at 50 calls/s" in shown(result(held_back=20, stock=[100], ours=[500]))
    assert "keep up" not in shown(result(stock=[100], ours=[500]))


def test_everything_measured_can_be_written_as_json() -> None:
    written = json.loads(json.dumps(result(stock=[100], ours=[500]).as_json()))

    assert ["h11"] == [server["http"] for server in written["servers"]]
    assert 0.5 == written["servers"][0]["paced"][0]["p99_ours_by_stock"]["median"]


def test_an_environment_of_other_pins_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "INSTALLED", tmp_path / "installed")
    assert peers.environment() is None

    peers.INSTALLED.write_text(json.dumps({"pins": peers._pins(), "missing": {"fastmcp": "offline"}}))
    made = peers.environment()
    assert made is not None
    assert {"fastmcp": "offline"} == made.missing

    monkeypatch.setattr(peers, "BASE", ("mcp==0",))
    assert peers.environment() is None


class _Stalling(Canned):
    """Sleeps from the first call of all on, and answers nobody meanwhile."""

    awake_at: float | None = None

    def data_received(self, data: bytes) -> None:
        if b"tools/call" not in data:
            super().data_received(data)
            return
        loop = asyncio.get_running_loop()
        _Stalling.awake_at = _Stalling.awake_at or loop.time() + STALL
        loop.call_at(_Stalling.awake_at, super().data_received, data)


class _Nowhere(asyncio.Transport):
    def write(self, data: object) -> None: ...

    def is_closing(self) -> bool:
        return False


class _served:  # noqa: N801 (used like a function)
    """A server in this loop."""

    def __init__(self, protocol: type[Canned]) -> None:
        self._protocol = protocol

    async def __aenter__(self) -> str:
        self._server = await asyncio.get_running_loop().create_server(self._protocol, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/mcp"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


def result(
    left_out: dict[str, str] | None = None, *, load_cpu: float = 0.1, held_back: int = 0, **calls: list[int]
) -> CallsResult:
    """A result of so many calls in each round; its p99 at an equal rate is half of stock's."""
    calls = {"ceiling": [10 * max(column) for column in zip(*calls.values(), strict=True)], **calls}
    samples = {
        key: [
            Sample(**{**SAMPLE.__dict__, "calls": number, "load_cpu": load_cpu if key != "ceiling" else 1.0})
            for number in numbers
        ]
        for key, numbers in calls.items()
    }
    paced = {
        "stock": [Sample(**{**SAMPLE.__dict__, "p99": 0.02, "held_back": held_back})],
        "ours": [Sample(**{**SAMPLE.__dict__, "p99": 0.01 if "strict" not in calls else 0.004})],
    }
    titles = {key: key for key in samples}
    load = Load(8, 1.0, 0.5)
    one = Result("h11", "asyncio", titles, samples, load, [Paced(titles, paced, 50.0, 128, 0.5)])
    return CallsResult([one], left_out or {})


def shown(calls: CallsResult) -> str:
    console = Console(width=80, record=True, file=StringIO(), highlight=False)
    show(calls, console)
    return console.export_text()
