"""F71: what is published while the listener is away is heard after it: once, and in its publisher's order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from mcpsession.model import Bell, Mail
from mcpsession.post_office import PostOffice
from mcpsession.postgres.address import Address
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.postgres.listener import channel
from mcpsession.settings import Settings
from tests.postgres.ears import ListenerRole, cut_listeners, fetch, free_port
from tests.postgres.stores import living, running_backend


class Reader:
    """A replica's post office, woken by bells and gaps alone: no beat looks for mail here."""

    def __init__(self, backend: PostgresBackend, me: str) -> None:
        self.office = PostOffice(backend.mailbox, backend.doorbell, lambda: me)
        self.handed: list[str] = []
        self.gaps = 0
        self.states: list[str] = []
        self._changed = anyio.Event()
        for kind in ("news", "answer"):
            self.office.on(kind, self._take)

    def _take(self, mail: Mail) -> None:
        self.handed.append(mail.body)
        self._changed.set()

    def reconnected(self) -> None:
        self.gaps += 1
        self.office.wake()
        self._changed.set()

    def state(self, state: str) -> None:
        self.states.append(state)
        self._changed.set()

    async def till_handed(self, many: int) -> None:
        while len(self.handed) < many:
            self._changed = anyio.Event()
            await self._changed.wait()

    async def till_state(self, state: str, times: int = 1) -> None:
        while self.states.count(state) < times:
            self._changed = anyio.Event()
            await self._changed.wait()


@asynccontextmanager
async def reading(backend: PostgresBackend, me: str) -> AsyncIterator[Reader]:
    reader = Reader(backend, me)
    await reader.office.start()
    async with (
        backend.doorbell.listening(me, heard=reader.office.hear, reconnected=reader.reconnected, state=reader.state),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(reader.office.run)
        try:
            yield reader
        finally:
            tasks.cancel_scope.cancel()


def news(number: int) -> Mail:
    return Mail("news", "publisher", body=str(number))


async def test_f71_what_is_published_while_the_listener_is_cut_is_heard_once_and_in_order_after_it(
    database_url: str, listener_role: ListenerRole
) -> None:
    """Neither the cut connection's bells nor the new one's tell of it: what was missed is read."""
    with anyio.fail_after(20):
        async with (
            running_backend(database_url) as sender,
            running_backend(database_url, listen_url=listener_role.url) as backend,
            living(sender) as me,
            reading(backend, me) as reader,
        ):
            publisher = PostOffice(sender.mailbox, sender.doorbell, lambda: "publisher")
            await publisher.broadcast(news(0))
            await reader.till_handed(1)
            await listener_role.lock_out()
            await reader.till_state("disconnected")
            for number in range(1, 51):
                await publisher.broadcast(news(number))
            assert await publisher.send(Mail("answer", "publisher", me, "session", "an answer"))
            assert ["0"] == reader.handed
            await listener_role.let_in()
            await reader.till_handed(52)
            await publisher.broadcast(news(51))
            await reader.till_handed(53)

    assert [*map(str, range(51)), "an answer", "51"] == reader.handed
    assert 1 == reader.gaps


async def test_f71_what_a_transaction_publishes_that_began_before_the_cut_is_heard_after_it(
    database_url: str, listener_role: ListenerRole
) -> None:
    """Its number is older than what was read before; a cursor of numbers would pass it by."""
    with anyio.fail_after(20):
        async with (
            running_backend(database_url) as sender,
            running_backend(database_url, listen_url=listener_role.url) as backend,
            living(sender) as me,
            reading(backend, me) as reader,
        ):
            publisher = PostOffice(sender.mailbox, sender.doorbell, lambda: "publisher")
            async with sender._database.transaction() as connection:
                await connection.execute(
                    "INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at) "
                    "VALUES ('default', 'slow', 'news', 'slow', now() + interval '1 hour')"
                )
                await publisher.broadcast(news(0))
                await reader.till_handed(1)
                await listener_role.lock_out()
                await reader.till_state("disconnected")
            await listener_role.let_in()
            await reader.till_handed(2)

    assert ["0", "slow"] == reader.handed


async def test_f71_twenty_cuts_in_a_row_lose_nothing_and_hand_nothing_over_twice(database_url: str) -> None:
    """Mail to all and to this one replica, published all the while."""
    cuts, sent = 20, 0
    with anyio.fail_after(60):
        async with (
            running_backend(database_url) as sender,
            running_backend(database_url) as backend,
            living(sender) as me,
            reading(backend, me) as reader,
        ):
            publisher = PostOffice(sender.mailbox, sender.doorbell, lambda: "publisher")
            over = anyio.Event()

            async def publish() -> None:
                nonlocal sent
                while not over.is_set() or sent % 2:
                    if sent % 2:
                        assert await publisher.send(Mail("answer", "publisher", me, "session", str(sent)))
                    else:
                        await publisher.broadcast(news(sent))
                    sent += 1
                    await anyio.sleep(0.005)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                for number in range(1, cuts + 1):
                    assert 1 == await cut_listeners(database_url)
                    await reader.till_state("reconnected", number)
                over.set()
            await reader.till_handed(sent)

    assert [*map(str, range(0, sent, 2))] == [body for body in reader.handed if int(body) % 2 == 0]
    assert [*map(str, range(1, sent, 2))] == [body for body in reader.handed if int(body) % 2 == 1]
    assert cuts <= reader.gaps
    assert sent > 100


async def test_f71_a_flood_of_bells_costs_no_mail(database_url: str) -> None:
    """12,000 bells in one transaction, in different words, so that Postgres does not fold them."""
    everyone = channel(Settings(), None)
    with anyio.fail_after(30):
        async with running_backend(database_url) as backend, living(backend) as me, reading(backend, me) as reader:
            for number in range(50):
                await backend.mailbox.broadcast([news(number)])
            await fetch(
                database_url,
                f"SELECT pg_notify('{everyone}', 's session stream' || n) FROM generate_series(1, 12000) n",
            )
            backend.doorbell.ring(Bell(None, "n"))
            await reader.till_handed(50)

    assert [str(number) for number in range(50)] == reader.handed


async def test_f71_more_bells_than_are_kept_are_taken_for_a_gap(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a blocked event loop can make so many wait; then all is looked at instead."""
    monkeypatch.setattr("mcpsession.postgres.ear._MOST_UNHEARD", 5)
    everyone = channel(Settings(), None)
    with anyio.fail_after(30):
        async with running_backend(database_url) as backend, living(backend) as me, reading(backend, me) as reader:
            await backend.mailbox.broadcast([news(0)])
            await fetch(
                database_url,
                f"SELECT pg_notify('{everyone}', CASE WHEN n < 500 THEN 's session stream' || n ELSE 'n' END) "
                "FROM generate_series(1, 500) n",
            )
            await reader.till_handed(1)
            await backend.mailbox.broadcast([news(1)])
            backend.doorbell.ring(Bell(None, "n"))
            await reader.till_handed(2)

    assert ["0", "1"] == reader.handed
    assert 1 <= reader.gaps


async def test_f71_bells_that_the_notifier_cannot_ring_wait_for_it(database_url: str) -> None:
    """Else what they tell of waits for the next poll, and a standalone stream's own messages for much longer."""
    with anyio.fail_after(10):
        async with running_backend(database_url) as backend, living(backend) as me, reading(backend, me) as reader:
            publisher = PostOffice(backend.mailbox, backend.doorbell, lambda: "publisher")
            address, refusing = backend._notifier._address, f"postgresql://user@127.0.0.1:{free_port()}/x"
            backend._notifier._address = Address(refusing, Settings())
            await fetch(
                database_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE '%pg_notify(bells%' AND pid <> pg_backend_pid()",
            )
            for number in range(5):
                await publisher.broadcast(news(number))
            while not backend.doorbell._failing:  # noqa: ASYNC110  # it is logged and nothing else
                await anyio.sleep(0.01)
            assert [] == reader.handed
            backend._notifier._address = address
            await reader.till_handed(5)

    assert ["0", "1", "2", "3", "4"] == reader.handed
    assert ["connected"] == reader.states
