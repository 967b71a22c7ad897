"""A backlog of several pages: the next one is read while one leaves, and nothing is lost, doubled or out of order."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.model import Batch, NewEvent, OpenedStream, new_stream_id
from mcpsession.sdk import resume
from tests.sdk.replicas import Client, Replica

EVENTS = 10


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_PAGE", 3)


async def backlog(at: Replica, client: Client, *, finished: bool = True, producer: str = "p", trimmed: int = 0) -> str:
    """A stream of ten messages, in the log."""
    messages = [NewEvent(f'{{"jsonrpc":"2.0","method":"n{n}"}}') for n in range(1, EVENTS + 1)]
    stream = OpenedStream(client.session_id, new_stream_id(), ('"x"',), messages, finished, trimmed=trimmed)
    assert 1 == len(await at.backend.log.write(Batch(opened=[stream]), producer=producer))
    return stream.stream_id


async def ids(at: Replica, client: Client, cursor: str) -> list[str]:
    """The ids of what comes after the cursor until the stream ends."""
    with anyio.fail_after(10):
        async with client.get(at, cursor) as response:
            await response.ended()
            return [frame.id for frame in response.frames if frame.id]


async def test_all_pages_come_once_and_in_order(here: Replica, client: Client) -> None:
    stream = await backlog(here, client)

    assert [f"{stream}.{seq}" for seq in range(3, EVENTS + 1)] == await ids(here, client, f"{stream}.2")


async def test_a_page_that_could_not_be_read_ahead_is_read_again(here: Replica, client: Client) -> None:
    stream = await backlog(here, client)
    reads = iter([None, StoreUnavailableError("a test says so")])
    here.backend.log.failing["read"] = lambda *_: next(reads, None)

    assert [f"{stream}.{seq}" for seq in range(1, EVENTS + 1)] == await ids(here, client, f"{stream}.0")


async def test_what_is_missing_before_the_next_page_ends_the_stream_with_an_error(
    here: Replica, client: Client
) -> None:
    stream = await backlog(here, client, trimmed=8)

    assert [f"{stream}.1"] == await ids(here, client, f"{stream}.0")


async def test_a_dead_producers_stream_is_finished_behind_its_last_page(here: Replica, client: Client) -> None:
    stream = await backlog(here, client, finished=False, producer="nobody that lives")

    assert [f"{stream}.{seq}" for seq in range(1, EVENTS + 2)] == await ids(here, client, f"{stream}.0")
