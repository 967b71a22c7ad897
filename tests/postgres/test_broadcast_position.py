"""A position in the broadcast mail misses nothing and repeats nothing, however publishers commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import asyncpg
import pytest
from anyio import to_thread

from mcpsession.errors import StoreUnavailableError
from mcpsession.model import Mail
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.postgres.positions import parse_position
from tests.postgres.ears import cut_hearts
from tests.postgres.stores import living, open_session, running_backend

_POST = """
INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at)
VALUES ('default', 'slow', 'news', $1, now() + interval '1 hour')
"""


@pytest.fixture
async def backend(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url) as backend:
        yield backend


async def test_mail_of_a_long_transaction_comes_once_and_nothing_else_waits_for_it(
    backend: PostgresBackend, database_url: str
) -> None:
    slow = await asyncpg.connect(database_url)
    position = await backend.mailbox.position()
    got: list[str] = []

    async def look() -> None:
        nonlocal position
        read = await backend.mailbox.news(position)
        assert read is not None
        position = read.position
        got.extend(mail.body for mail in read.mails)

    try:
        async with slow.transaction():
            await slow.execute(_POST, "slow 1")
            for n in range(20):
                await backend.mailbox.broadcast([Mail("news", "quick", body=f"quick {n}")])
                await look()
            await slow.execute(_POST, "slow 2")
            assert [f"quick {n}" for n in range(20)] == got
        await look()
        await backend.mailbox.broadcast([Mail("news", "quick", body="last")])
        await look()
        await look()
    finally:
        await slow.close()

    assert [*(f"quick {n}" for n in range(20)), "slow 1", "slow 2", "last"] == got


async def test_many_publishers_and_a_busy_reader_lose_and_repeat_nothing(
    backend: PostgresBackend, database_url: str
) -> None:
    position = await backend.mailbox.position()
    got: list[str] = []
    done = anyio.Event()

    async def publish(name: str) -> None:
        connection = await asyncpg.connect(database_url)
        for n in range(50):
            async with connection.transaction():
                await connection.execute(_POST, f"{name} {n}")
                await anyio.sleep(0.0005 * (n % 5))
        await connection.close()

    async def look_on() -> None:
        nonlocal position
        last = False
        while not last:
            last = done.is_set()
            read = await backend.mailbox.news(position)
            assert read is not None
            position = read.position
            got.extend(mail.body for mail in read.mails)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as readers:
            readers.start_soon(look_on)
            async with anyio.create_task_group() as publishers:
                for name in "abcd":
                    publishers.start_soon(publish, name)
            done.set()

    assert sorted(f"{name} {n}" for name in "abcd" for n in range(50)) == sorted(got)
    for name in "abcd":
        assert [f"{name} {n}" for n in range(50)] == [body for body in got if body[0] == name]


async def test_a_position_of_another_timeline_is_none(backend: PostgresBackend) -> None:
    snapshot, taken_at = parse_position(await backend.mailbox.position()) or ("", 0.0)
    future = int(snapshot.split(":")[1]) + 1000

    assert await backend.mailbox.news(f"{future}:{future}:@{taken_at}") is None


async def test_a_position_older_than_the_mail_is_none(backend: PostgresBackend) -> None:
    snapshot, taken_at = parse_position(await backend.mailbox.position()) or ("", 0.0)

    assert await backend.mailbox.news(f"{snapshot}@{taken_at - 3600}") is None
    assert await backend.mailbox.news(f"{snapshot}@{taken_at - 60}") is not None


@pytest.mark.parametrize(
    "garbage",
    [
        "", "@", "1:1:", "x", "1:1:@", "0:0:@1", "2:1:@1", "1:9:5,3@1", "1:9:9@1", "1:9:3,3@1", "1:9:,3@1", "1:1:@1e9",
        "1:1:@1;select 1", "99999999999999999999:99999999999999999999:@1", "٣:٣:@1", "1:1:@1\n", "1:2:" + "1," * 9000,
    ],
)  # fmt: skip
async def test_a_position_that_a_client_made_up_is_none(backend: PostgresBackend, garbage: str) -> None:
    assert await backend.mailbox.news(garbage) is None


async def test_a_session_s_first_position_is_that_of_its_creation(backend: PostgresBackend) -> None:
    await backend.mailbox.broadcast([Mail("news", "x", body="before")])
    session = await open_session(backend)
    await backend.mailbox.broadcast([Mail("changed", "x", body="no news"), Mail("news", "x", body="after")])

    async with living(backend) as replica:
        hold = await backend.holds.take(session, replica)
    assert hold is not None
    page = await backend.news_log.missed(hold.delivered_news)
    assert page is not None
    assert ["after"] == [mail.body for mail in page.mails]


async def test_a_beat_with_a_position_that_is_ahead_of_the_server_asks_for_a_look(backend: PostgresBackend) -> None:
    """Of a primary whose last commits are lost: its numbers hide the mail of this one."""
    snapshot, taken_at = (await backend.mailbox.position()).split("@")
    future = int(snapshot.split(":")[1]) + 1_000_000
    async with living(backend) as me, backend.registry() as registry:
        assert not (await registry.beat(me, f"{snapshot}@{taken_at}")).news
        assert (await registry.beat(me, f"{future}:{future}:@{taken_at}")).news


async def test_a_beat_tells_when_it_went_over_another_connection(backend: PostgresBackend, database_url: str) -> None:
    async with living(backend) as me, backend.registry() as registry:
        beats = [(await registry.beat(me, "")).anew for _ in range(2)]
        assert 1 == await cut_hearts(database_url)
        # The cut may be known already, and then it dials anew at once.
        with suppress(StoreUnavailableError):
            beats.append((await registry.beat(me, "")).anew)
        beats += [(await registry.beat(me, "")).anew for _ in range(2)]

    assert [True, False, True, False] == beats[:4]


async def test_a_beat_tells_of_mail_and_news(backend: PostgresBackend) -> None:
    async with living(backend) as me, backend.registry() as registry:
        position = await backend.mailbox.position()
        quiet = await registry.beat(me, position)
        await backend.mailbox.broadcast([Mail("news", "x")])
        news = await registry.beat(me, position)
        await backend.mailbox.send(Mail("answer", "x", recipient=me))
        both = await registry.beat(me, position)
        unread = await registry.beat(me, "")

    assert (True, False, False) == (quiet.alive, quiet.mail, quiet.news)
    assert (False, True) == (news.mail, news.news)
    assert (True, True) == (both.mail, both.news)
    assert (True, False) == (unread.mail, unread.news)


async def test_a_position_that_grows_old_in_silence_is_refreshed(backend: PostgresBackend) -> None:
    """Else an idle hour would end in a lost position, with nothing lost."""
    snapshot, taken_at = parse_position(await backend.mailbox.position()) or ("", 0.0)
    async with living(backend) as me, backend.registry() as registry:
        assert (await registry.beat(me, f"{snapshot}@{taken_at - 1900}")).news


async def test_f71_numbers_that_a_crash_of_the_server_gives_again_hide_no_mail(own_postgres: EmbeddedPostgres) -> None:
    """Touches and beats do not wait for the disk. A crash takes them back, and their numbers come again."""

    async def broadcast(backend: PostgresBackend, *bodies: str) -> None:
        for body in bodies:
            await backend.mailbox.broadcast([Mail("news", "someone", body=body)])

    async with running_backend(own_postgres.url) as backend:
        start = await backend.mailbox.position()
        await broadcast(backend, "before")
        connection = await asyncpg.connect(own_postgres.url)
        await connection.execute("CREATE TABLE touches (n int)")
        await connection.execute("SET synchronous_commit = off")
        for n in range(30):
            await connection.execute("INSERT INTO touches VALUES ($1)", n)
        page = await backend.mailbox.news(start)
        assert page is not None
        assert ["before"] == [mail.body for mail in page.mails]
        await to_thread.run_sync(own_postgres.kill)
    await to_thread.run_sync(own_postgres.start)
    bodies = [str(n) for n in range(60)]
    async with running_backend(own_postgres.url) as backend:
        await broadcast(backend, *bodies)
        after = await backend.mailbox.news(page.position)
    assert after is not None
    assert bodies == [mail.body for mail in after.mails]
