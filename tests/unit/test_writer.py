"""A stream's pen counts what the log keeps of it: the newest, and the last one always."""

from __future__ import annotations

import random

import pytest

from mcpsession.errors import StoreError
from mcpsession.model import AppendedStream, OpenedStream, ReplicaId
from mcpsession.writer import StreamWriter


class Desk:
    """Who holds the ink, and hears what becomes of the stream; the batches are written by the test."""

    def note(self, writer: StreamWriter, size: int, *, urgent: bool = False) -> None: ...

    def forget(self, size: int) -> None: ...

    def close(self, writer: StreamWriter) -> None: ...

    def landed(self) -> None: ...

    def read_by(self, replica: ReplicaId) -> None: ...

    def refused(self, error: Exception | None) -> None: ...


class Log:
    """What a log would keep of one stream, told by the writer alone."""

    def __init__(self, writer: StreamWriter) -> None:
        self.writer = writer
        self.kept: list[tuple[int, str]] = []

    def write(self) -> OpenedStream | AppendedStream:
        part = self.writer.take()
        base = part.base if isinstance(part, AppendedStream) else 0
        numbered = [(base + place, event.message) for place, event in enumerate(part.events, 1)]
        self.kept = [(seq, message) for seq, message in [*self.kept, *numbered] if seq > part.trimmed]
        self.writer.settle(len(part.events), part.finished, None)
        return part

    @property
    def numbers(self) -> list[int]:
        return [seq for seq, _ in self.kept]


def a_writer(max_events: int = 1000, max_bytes: int = 1_000_000, request_ids: tuple[str, ...] = ("1",)) -> StreamWriter:
    desk = Desk()
    return StreamWriter(
        desk, "session", request_ids, desk, method="tools/call", max_events=max_events, max_bytes=max_bytes
    )


@pytest.mark.parametrize("seed", range(20))
def test_f45_however_it_is_batched_the_longest_end_that_fits_is_kept(seed: int) -> None:
    dice = random.Random(seed)
    max_events, max_bytes = dice.randint(1, 20), dice.randint(1, 300)
    writer = a_writer(max_events, max_bytes)
    log = Log(writer)
    expected: list[tuple[int, str]] = []
    for seq in range(1, 200):
        message = dice.choice("xé") * dice.randint(1, 60)
        assert seq == writer.append(message, final=seq == 199)
        expected.append((seq, message))
        while len(expected) > 1 and (
            len(expected) > max_events or sum(len(kept.encode()) for _, kept in expected) > max_bytes
        ):
            expected.pop(0)
        if seq == 199 or dice.random() < 0.3:
            log.write()
            assert expected == log.kept


def test_an_answer_that_stands_alone_is_kept_however_large_it_is() -> None:
    log = Log(writer := a_writer(1, 10))
    writer.append("x" * 1000, final=True)

    assert 0 == log.write().trimmed
    assert [1] == log.numbers


def test_its_method_is_told_once() -> None:
    log = Log(writer := a_writer())
    opened = log.write()
    assert isinstance(opened, OpenedStream)
    assert "tools/call" == opened.method
    writer.append("1")
    assert isinstance(log.write(), AppendedStream)


@pytest.mark.parametrize("written", [0, 2, 6])
def test_what_could_not_be_stored_leaves_no_hole_and_takes_no_more_than_its_room(written: int) -> None:
    log = Log(writer := a_writer(max_events=4, request_ids=("1", "2")))
    for number in range(written):
        writer.append(str(number))
    if written:
        log.write()
    for _ in range(3):
        writer.append("\x00")
    writer.take()
    writer.append("after it")

    writer.spoil(StoreError("no", "22021"))

    part = log.write()
    assert (2, True) == (len(part.events), part.finished)
    assert all("could not be stored" in message for _, message in log.kept[-2:])
    # As numbers go on where the log ends, nothing is missing between; and it holds no more than it may.
    assert list(range(log.numbers[0], written + 3)) == log.numbers
    assert len(log.kept) <= 4


def test_what_could_not_be_stored_may_have_pushed_out_what_was() -> None:
    """What is left then is the error, which stays, as any last message."""
    log = Log(writer := a_writer(max_events=2))
    for number in range(3):
        writer.append(str(number))
    log.write()
    for _ in range(10):
        writer.append("\x00")
    writer.take()

    writer.spoil(StoreError("no", "22021"))
    log.write()

    assert [4] == log.numbers


def test_text_that_is_not_unicode_is_counted_and_refused_by_the_store() -> None:
    writer = a_writer()
    assert 1 == writer.append("\ud800")
