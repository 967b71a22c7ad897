"""Pages of news while transactions begin, post, commit and roll back as they like: all comes once, in order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import anyio
import asyncpg
import pytest

from mcpsession import news_contracts
from mcpsession.model import Mail, NewsPage, has_seen
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.postgres.positions import Snapshot, advanced, parse_position
from tests.postgres.stores import running_backend

POST = """
INSERT INTO mcpsession.mail (namespace, sender, kind, body, newest_of, expires_at)
VALUES ('default', 'x', 'news', $1, $2, now() + interval '1 hour')
RETURNING id
"""


@pytest.fixture
async def backend(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url) as backend:
        yield backend


@dataclass
class Writer:
    """A publisher's connection, and what it has posted in its open transaction."""

    connection: asyncpg.Connection[asyncpg.Record]
    transaction: asyncpg.transaction.Transaction | None = None
    posted: list[Post] = field(default_factory=list)


@dataclass(frozen=True)
class Post:
    body: str
    id: int
    newest_of: str | None
    after: int
    """How much had been committed by all when it was posted."""
    place: tuple[int, int] = (0, 0)
    """Behind whatever had been committed before its transaction posted last."""


@dataclass
class Reader:
    """Reads page by page, in one of the ways that there are."""

    name: str
    position: str
    heard: list[Mail] = field(default_factory=list)

    async def read(self, backend: PostgresBackend) -> NewsPage:
        match self.name:
            case "news":
                page = await backend.mailbox.news(self.position)
            case name:
                page = await backend.news_log.missed(self.position, newest=name == "newest")
        assert page is not None
        assert page.mails or not page.more
        for mail in self.heard:
            assert has_seen(self.position, mail.xid)
        for mail in page.mails:
            assert not has_seen(self.position, mail.xid)
            assert has_seen(page.position, mail.xid)
        self.heard += page.mails
        self.position = page.position
        return page


class World:
    """What is committed, in the order of the commits."""

    def __init__(self, chance: random.Random, writers: list[Writer]) -> None:
        self._chance = chance
        self._writers = writers
        self._count = 0
        self.committed: list[Post] = []

    async def step(self) -> None:
        """One of the publishers does something."""
        writer = self._chance.choice(self._writers)
        match self._chance.choice(["begin", "touch", "post", "post", "end", "end"]):
            case "begin" if writer.transaction is None:
                writer.transaction = writer.connection.transaction()
                await writer.transaction.start()
            case "touch" if writer.transaction is not None:
                # The transaction has its number from here on, whenever it posts.
                await writer.connection.execute("SELECT pg_current_xact_id()")
            case "post":
                await self._post(writer)
            case "end":
                await self.end(writer, commit=self._chance.random() < 0.8)

    async def _post(self, writer: Writer) -> None:
        newest_of = self._chance.choice([None, None, "tools", "prompts"])
        self._count += 1
        body = f"{self._count}"
        mail_id = await writer.connection.fetchval(POST, body, newest_of)
        writer.posted.append(Post(body, mail_id, newest_of, len(self.committed)))
        if writer.transaction is None:
            await self.end(writer, commit=True)

    async def end(self, writer: Writer, *, commit: bool) -> None:
        transaction, writer.transaction = writer.transaction, None
        if transaction is not None:
            await (transaction.commit() if commit else transaction.rollback())
        posted, writer.posted = writer.posted, []
        if commit:
            self.committed += [replace(post, place=(posted[-1].id, post.id)) for post in posted]


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_transactions_do_each_mail_comes_once_and_after_what_was_committed_before_it(
    backend: PostgresBackend, database_url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 1 + seed % 3)
    position = await backend.mailbox.position()
    readers = [Reader(name, position) for name in ("news", "missed", "newest")]
    writers = [Writer(await asyncpg.connect(database_url)) for _ in range(5)]
    world = World(chance, writers)
    try:
        for _ in range(250):
            await world.step()
            if chance.random() < 0.1:
                await chance.choice(readers).read(backend)
        for writer in writers:
            await world.end(writer, commit=True)
    finally:
        for writer in writers:
            await writer.connection.close()
    for reader in readers:
        while (await reader.read(backend)).more:
            pass

    posts = {post.body: post for post in world.committed}
    for reader in readers:
        bodies = [mail.body for mail in reader.heard]
        assert len(set(bodies)) == len(bodies)
        _check_order([posts[body] for body in bodies], world.committed)
        if reader.name == "newest":
            assert _never_replaced(world.committed) <= set(bodies)
        else:
            assert sorted(posts) == sorted(bodies)


def _check_order(heard: list[Post], committed: list[Post]) -> None:
    """What had been committed when something was posted comes before it."""
    places = {post.body: place for place, post in enumerate(heard)}
    for place, post in enumerate(heard):
        assert all(places.get(earlier.body, -1) < place for earlier in committed[: post.after])


def _never_replaced(committed: list[Post]) -> set[str]:
    """What even a reader of the newest must hear: what replaces nothing, and the last of each."""
    last = {post.newest_of: post for post in sorted(committed, key=lambda post: post.place) if post.newest_of}
    return {post.body for post in committed if post.newest_of is None or post is last[post.newest_of]}


async def test_f71_what_a_publisher_committed_while_it_had_a_transaction_open_comes_before_that(
    backend: PostgresBackend, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction has the lower number, and the page is full after it."""
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 1)
    position = await backend.mailbox.position()
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        for body in ("1", "2"):
            await backend.news_log.publish(Mail("news", "a", body=body))
        await backend.news_log.publish(Mail("news", "a", body="3"), connection=connection)
    await connection.close()
    heard = []

    for more in (True, True, False):
        page = await backend.mailbox.news(position)
        assert page is not None
        assert more == page.more
        heard += [mail.body for mail in page.mails]
        position = page.position

    assert ["1", "2", "3"] == heard


async def test_f71_a_transaction_that_was_open_while_pages_were_read_comes_when_it_is_committed(
    backend: PostgresBackend, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 2)
    reader = Reader("news", await backend.mailbox.position())
    slow = await asyncpg.connect(database_url)
    async with slow.transaction():
        await slow.execute(POST, "slow 1", None)
        for number in range(6):
            await backend.news_log.publish(Mail("news", "a", body=f"{number}"))
        await reader.read(backend)
        await slow.execute(POST, "slow 2", None)
        await reader.read(backend)
    await slow.close()
    with anyio.fail_after(5):
        while (await reader.read(backend)).more:
            pass

    assert ["0", "1", "2", "3", "4", "5", "slow 1", "slow 2"] == [mail.body for mail in reader.heard]


POST_MANY = """
DO $$ BEGIN
    FOR n IN 1..1000 LOOP
        INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at)
        VALUES ('default', 'x', 'news', n, now() + interval '1 hour');
        COMMIT;
    END LOOP;
END $$
"""


@pytest.mark.parametrize("name", ["news", "missed", "newest"])
async def test_f71_far_more_than_is_looked_at_for_a_page_comes_once_and_in_order(
    backend: PostgresBackend, database_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 150)
    reader = Reader(name, await backend.mailbox.position())
    connection, early = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    assert 1000 > 2 * int(await connection.fetchval("SHOW max_connections"))
    async with early.transaction():
        await early.execute(POST, "early", None)
        await connection.execute(POST_MANY)
        await early.execute(POST, "late", None)
    await connection.close()
    await early.close()

    pages = 1
    while (await reader.read(backend)).more:
        pages += 1

    assert 7 == pages
    assert [*map(str, range(1, 1001)), "early", "late"] == [mail.body for mail in reader.heard]


def test_the_position_of_a_page_is_one_that_postgres_takes() -> None:
    """Of each 2^32 numbers Postgres gives the first to no transaction, and refuses a snapshot that has it."""
    last = 2**32 - 1
    snapshot = advanced(Snapshot(last, []), Snapshot(last + 10, []), [last], [])
    assert f"{2**32 + 1}:{2**32 + 1}:" == str(snapshot)
    assert parse_position(f"{snapshot}@1.0") is not None


@pytest.mark.parametrize("seed", range(200))
def test_the_position_of_a_page_sees_what_was_seen_and_what_was_read(seed: int) -> None:
    chance = random.Random(seed)
    numbers = range(100, 140)
    # Each transaction ends at some time; the old snapshot was taken before the present one.
    ends = {xid: chance.random() * 3 for xid in numbers}
    middle = chance.choice(numbers)
    seen = Snapshot(middle, [xid for xid in range(100, middle) if ends[xid] > 1])
    current = Snapshot(chance.choice(range(middle, 141)), [])
    current = Snapshot(current.xmax, [xid for xid in range(100, current.xmax) if ends[xid] > 2])
    with_mail = [xid for xid in numbers if _sees(current, xid) and not _sees(seen, xid) and chance.random() < 0.5]
    chance.shuffle(with_mail)
    read, unread = with_mail[: len(with_mail) // 2 + 1], with_mail[len(with_mail) // 2 + 1 :]
    if not read:
        return

    skipped = [xid for xid in unread if xid < max(seen.xmax, *read)]
    after = advanced(seen, current, read, skipped)

    assert list(after.running) == sorted(set(after.running))
    assert all(xid < after.xmax for xid in after.running)
    for xid in numbers:
        if _sees(seen, xid) or xid in read:
            assert _sees(after, xid)
        if not _sees(current, xid) or xid in unread:
            assert not _sees(after, xid)


def _sees(snapshot: Snapshot, xid: int) -> bool:
    assert has_seen(f"{snapshot}@1", xid) == (xid < snapshot.xmax and xid not in snapshot.running)
    return has_seen(f"{snapshot}@1", xid)
