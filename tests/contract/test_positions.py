"""Mailbox, positions: clients send them back, so each is checked, and never believed beyond what is left."""

from __future__ import annotations

import re
import time

import pytest

from mcpsession.contracts import Backend
from mcpsession.model import Mail
from tests.contract.given import given, until

# What an event id may carry of a position; it is part of the standalone stream's cursor.
_IN_EVENT_ID = re.compile(r"[0-9:,@.]{1,3000}")


def news_of(*bodies: str, sender: str = "a") -> list[Mail]:
    return [Mail("news", sender, body=body) for body in bodies]


async def read(backend: Backend, position: str) -> tuple[list[str], str]:
    """The bodies of the broadcast mail past a position, and the new position."""
    page = await backend.mailbox.news(position)
    assert page is not None
    assert not page.more
    return [mail.body for mail in page.mails], page.position


async def test_a_position_fits_into_an_event_id_and_carries_its_time(backend: Backend) -> None:
    before = time.time()

    position = await backend.mailbox.position()

    assert _IN_EVENT_ID.fullmatch(position)
    assert abs(float(position.rpartition("@")[2]) - before) < 60
    assert _IN_EVENT_ID.fullmatch((await read(backend, position))[1])


@given(mail_ttl=0.5)
async def test_a_position_that_is_too_old_is_refused(backend: Backend) -> None:
    position = await backend.mailbox.position()

    async def is_refused() -> bool:
        return await backend.mailbox.news(position) is None

    await until(is_refused)
    assert [] == (await read(backend, await backend.mailbox.position()))[0]


@given(mail_ttl=0.5)
async def test_a_position_is_refused_before_any_mail_past_it_is_reaped(backend: Backend) -> None:
    position = await backend.mailbox.position()
    await backend.mailbox.broadcast(news_of("1"))

    async def is_refused() -> bool:
        await backend.reaping.reap(10)
        news = await backend.mailbox.news(position)
        assert news is None or ["1"] == [mail.body for mail in news.mails]
        return news is None

    await until(is_refused)


async def test_a_position_that_is_ahead_of_the_store_is_refused(backend: Backend) -> None:
    """It is of another timeline, or of another store."""
    snapshot, _, taken_at = (await backend.mailbox.position()).rpartition("@")
    xmax = int(snapshot.split(":")[1]) + 1_000_000_000

    for ahead in (f"{xmax}:{xmax}:", f"{snapshot.split(':')[0]}:{xmax}:"):
        assert await backend.mailbox.news(f"{ahead}@{taken_at}") is None


@pytest.mark.parametrize(
    "position",
    [
        "",
        "@",
        "garbage",
        "1:1:",
        "1:1:@",
        "1:1:@yesterday",
        "1:1:@nan",
        "1:1:@-1",
        "1:1@1.0",
        "::@1.0",
        "2:1:@1.0",
        "0:0:@1.0",
        "-1:1:@1.0",
        "1:5:9@1.0",
        "1:5:3,2@1.0",
        "1:5:,@1.0",
        "1:1:@1.0\n",
        " 1:1:@1.0",
        "1:1:@1.0'; DROP TABLE mail; --",
        "1:1:@\x00",
        "\uff11:\uff11:@1.0",
        "9" * 30 + ":" + "9" * 30 + ":@1.0",
        "1:1:@" + "9" * 400,
        "4294967296:4294967297:@1.0",
        "1:4294967296:@1.0",
        "1:4294967300:4294967296@1.0",
        "1:99999:" + ",".join(map(str, range(1, 20_000))) + "@1.0",
    ],
    ids=lambda position: repr(position[:24]),
)
async def test_a_position_that_cannot_be_one_is_refused(backend: Backend, position: str) -> None:
    """Clients send positions back."""
    assert await backend.mailbox.news(position) is None
    # With a time of today as well: none of these is refused for its age alone.
    assert await backend.mailbox.news(position.replace("@1.0", f"@{time.time():.3f}")) is None
