"""The benchmark of compression: what it writes, and what it says of the numbers."""

from __future__ import annotations

import json
import zlib
from itertools import product

import pytest
from rich.console import Console

from benchmarks import compression
from benchmarks.compression import SIZES, CompressionLoad, measure_compression
from benchmarks.compression_payloads import KINDS, payloads
from benchmarks.compression_report import CompressionResult, Turn, show_compression
from benchmarks.compression_sides import SIDES, Side
from benchmarks.store_layer import WrongResultError

TURN = Turn(100, 1.0, 0.1, 0.2, 1024 * 550 * 100, 1024 * 550 * 100, 50, 0.9)
SLOWER = Turn(50, 1.0, 0.1, 0.2, 1024 * 550 * 50, 1024 * 550 * 50, 50, 0.9)
RESULT = CompressionResult(
    rounds=1,
    seconds=1.0,
    turns={
        (kind, size, side.key): [SLOWER if side.key == "pglz" else TURN]
        for kind, size, side in product(KINDS, SIZES, SIDES)
    },
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES[:3])
def test_messages_are_answers_of_about_that_size_and_differ(kind: str, size: int) -> None:
    messages = payloads(kind, size)
    assert len(messages) == len(set(messages))
    for message in messages:
        assert {"content", "isError"} == set(json.loads(message)["result"])
        assert 0.95 * size < len(message.encode()) < 1.05 * size + 200


def test_texts_shrink_as_texts_do_and_pictures_hardly() -> None:
    shares = {kind: [len(zlib.compress(one.encode(), 1)) / len(one) for one in payloads(kind, 65536)] for kind in KINDS}
    assert 0.2 < min(shares["table"]) < max(shares["prose"]) < 0.6
    # Six bits in a byte.
    assert 0.75 <= min(shares["base64"])


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.key)
def test_what_is_packed_is_unpacked_again(side: Side) -> None:
    message = '{"text":"Ünïcode …"}'
    assert message == side.unpack(side.pack(message))


async def test_each_way_that_the_server_can_writes_and_reads_the_same(database_url: str) -> None:
    said: list[str] = []
    result = await measure_compression(database_url, CompressionLoad(1, 0.005, sizes=[1024, 65536]), said.append)
    assert len(KINDS) * 2 * len(result.sides) == len(result.turns)
    assert {"pglz", "plain", "zlib", "zlib_text"} <= {side.key for side in result.sides}
    assert all(0 < turn.read <= turn.events + 256 for turns in result.turns.values() for turn in turns)
    packed, plain = (result.row("table", 65536, key) for key in ("zlib", "plain"))
    assert packed.table_bytes < plain.table_bytes / 2
    assert packed.wal_bytes < plain.wal_bytes / 2


async def test_what_does_not_come_back_is_no_measurement(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Side("pglz", "test", "text", "SET STORAGE EXTERNAL", str, lambda stored: f"{stored} ")
    monkeypatch.setattr(compression, "SIDES", (other,))
    with pytest.raises(WrongResultError, match="read"):
        await measure_compression(database_url, CompressionLoad(1, 0.005, sizes=[1024]), print)


def test_everything_is_written_as_json_and_shown_within_80_columns() -> None:
    written = json.loads(json.dumps(RESULT.as_json()))
    assert len(RESULT.turns) == len(written["messages"])
    assert [1.0, 2.0] == [one["by_pglz"]["median"] for one in written["messages"][:2]]
    assert 0.001 == written["messages"][1]["client_cpu"]

    console = Console(width=80, record=True, highlight=False)
    show_compression(RESULT, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    # Nothing was cut to fit.
    assert "…" not in text
