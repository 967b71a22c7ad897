"""Pages of the broadcast mail: whole transactions, everything once, in order, however small the pages are."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from mcpsession import news_contracts
from mcpsession.contracts import Backend
from mcpsession.model import Mail, NewsPage, has_seen
from tests.contract.given import given, until

# What an event id may carry of a position; it is part of the standalone stream's cursor.
_IN_EVENT_ID = re.compile(r"[0-9:,@.]{1,3000}")

Read = Callable[[str], Awaitable[NewsPage | None]]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 2)


@pytest.fixture(params=["news", "missed", "newest"])
def read(backend: Backend, request: pytest.FixtureRequest) -> Read:
    """Reads a page, in each of the ways that there are."""
    match request.param:
        case "news":
            return backend.mailbox.news
        case "missed":
            return backend.news_log.missed
        case _:
            return lambda position: backend.news_log.missed(position, newest=True)


async def post(backend: Backend, *bodies: str, sender: str = "a") -> None:
    """Post news, as one transaction."""
    await backend.mailbox.broadcast([Mail("news", sender, body=body) for body in bodies])


async def pages(read: Read, position: str) -> list[NewsPage]:
    """All pages past a position, until there is no more."""
    found: list[NewsPage] = []
    while not found or found[-1].more:
        page = await read(found[-1].position if found else position)
        assert page is not None
        found.append(page)
    return found


def bodies(page: NewsPage) -> list[str]:
    return [mail.body for mail in page.mails]


async def test_a_page_ends_with_the_transaction_that_fills_it(backend: Backend, read: Read) -> None:
    position = await backend.mailbox.position()
    for transaction in (["1"], ["2", "3", "4"], ["5"], ["6"], ["7"]):
        await post(backend, *transaction)

    assert [["1", "2", "3", "4"], ["5", "6"], ["7"]] == [bodies(page) for page in await pages(read, position)]


async def test_a_page_ends_with_the_transaction_that_brings_it_to_its_bytes(
    backend: Backend, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 1000)
    monkeypatch.setattr(news_contracts, "PAGE_BYTES", 10)
    position = await backend.mailbox.position()
    for transaction in (["x" * 9], ["y"], ["z" * 100, "z"], ["1", "2"], ["3"]):
        await post(backend, *transaction)

    assert [[9, 1], [100, 1], [1, 1, 1]] == [
        [len(body) for body in bodies(page)] for page in await pages(read, position)
    ]


async def test_a_page_that_is_just_full_is_the_last(backend: Backend, read: Read) -> None:
    position = await backend.mailbox.position()
    for body in ("1", "2"):
        await post(backend, body)

    [page] = await pages(read, position)

    assert ["1", "2"] == bodies(page)


async def test_the_position_of_a_page_covers_what_came_and_nothing_else(backend: Backend, read: Read) -> None:
    position = await backend.mailbox.position()
    for number in range(7):
        await post(backend, f"{number}")
    found = await pages(read, position)
    mails = [mail for page in found for mail in page.mails]

    assert [f"{number}" for number in range(7)] == [mail.body for mail in mails]
    for number, page in enumerate(found, start=1):
        assert _IN_EVENT_ID.fullmatch(page.position)
        assert [mail.xid for mail in mails[: 2 * number]] == [
            mail.xid for mail in mails if has_seen(page.position, mail.xid)
        ]


async def test_each_page_can_be_read_again(backend: Backend, read: Read) -> None:
    position = await backend.mailbox.position()
    for number in range(5):
        await post(backend, f"{number}")

    for page in await pages(read, position):
        again = await read(position)
        assert again is not None
        assert page.mails == again.mails
        position = page.position


async def test_of_the_same_only_the_newest_comes_though_it_is_pages_away(backend: Backend) -> None:
    position = await backend.mailbox.position()

    async def publish(body: str, newest_of: str | None) -> None:
        await backend.news_log.publish(Mail("news", "a", body=body), newest_of=newest_of)

    for number in range(4):
        await publish(f"tools {number}", "tools")
        await publish(f"text {number}", None)

    async def read(position: str) -> NewsPage | None:
        return await backend.news_log.missed(position, newest=True)

    first = await read(position)
    assert first is not None
    assert ["text 0", "text 1"] == bodies(first)
    await publish("tools 4", "tools")

    assert [["text 2", "text 3"], ["tools 4"]] == [bodies(page) for page in await pages(read, first.position)]


@given(mail_ttl=1.5)
async def test_a_long_way_back_can_be_gone_page_by_page(backend: Backend, read: Read) -> None:
    """The position of a page is as old as what is in it, not as old as where the reader came from."""
    start = await backend.mailbox.position()

    async def is_half_as_old_as_it_may_get() -> bool:
        page = await read(start)
        assert page is not None
        now = float((await backend.mailbox.position()).rpartition("@")[2])
        return now - float(start.rpartition("@")[2]) > 0.7

    await until(is_half_as_old_as_it_may_get)
    for number in range(5):
        await post(backend, f"{number}")
    first = await read(start)
    assert first is not None
    assert first.more

    async def is_too_old() -> bool:
        return await read(start) is None

    await until(is_too_old)

    assert [["2", "3"], ["4"]] == [bodies(page) for page in await pages(read, first.position)]


@given(mail_ttl=0.5)
async def test_a_page_is_refused_before_any_mail_past_it_is_reaped(backend: Backend, read: Read) -> None:
    position = await backend.mailbox.position()
    for number in range(5):
        await post(backend, f"{number}")
    first = await read(position)
    assert first is not None

    async def is_refused() -> bool:
        await backend.reaping.reap(10)
        page = await read(first.position)
        assert page is None or ["2", "3"] == bodies(page)
        return page is None

    await until(is_refused)


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_nothing_is_lost_doubled_or_reordered_while_many_publish(
    backend: Backend, read: Read, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", size)
    position = await backend.mailbox.position()
    heard: list[str] = []
    sent: dict[str, list[str]] = {sender: [] for sender in "abcdef"}
    publishing = len(sent)

    async def publish(sender: str) -> None:
        nonlocal publishing
        chance = random.Random(f"{sender}{size}")
        for number in range(15):
            own = [f"{sender} {number} {place}" for place in range(chance.choice([1, 1, 1, 2, 4]))]
            await post(backend, *own, sender=sender)
            sent[sender] += own
        publishing -= 1

    async def read_on() -> None:
        nonlocal position
        for page in await pages(read, position):
            heard.extend(bodies(page))
            position = page.position

    async with anyio.create_task_group() as tasks:
        for sender in sent:
            tasks.start_soon(publish, sender)
        while publishing:
            await anyio.lowlevel.checkpoint()
            await read_on()
    await read_on()

    assert sent == {sender: [body for body in heard if body[0] == sender] for sender in sent}
