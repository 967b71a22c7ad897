"""The ear: what a pooler takes from it, what a cut does to it, and what it costs at rest."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import asyncpg
import pytest
from anyio import to_thread

from mcpsession.errors import ListenerError, StoreUnavailableError
from mcpsession.model import Bell, Mail, NewEvent
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.postgres.ear import Ear as PostgresEar
from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.postgres.listener import channel
from mcpsession.settings import Settings
from tests.postgres.ears import Ear, cut_listeners, free_port, listening
from tests.postgres.stores import living, open_session, opened, running_backend


@pytest.fixture
async def backend(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url) as backend:
        yield backend


async def test_bells_reach_whom_they_are_for(backend: PostgresBackend) -> None:
    with anyio.fail_after(5):
        async with listening(backend, "a") as a, listening(backend, "b") as b:
            backend.doorbell.ring(Bell("a", "to a"))
            backend.doorbell.ring(Bell("b", "to b"))
            backend.doorbell.ring(Bell(None, "to all"))
            await a.until("to all")
            await b.until("to all")

    assert ["to a", "to all"] == a.heard
    assert ["to b", "to all"] == b.heard


async def test_another_namespace_hears_nothing(backend: PostgresBackend, database_url: str) -> None:
    with anyio.fail_after(5):
        async with running_backend(database_url, namespace="other") as stranger, listening(stranger) as theirs:
            async with listening(backend) as ours:
                backend.doorbell.ring(Bell(None, "ours"))
                await ours.until("ours")
            stranger.doorbell.ring(Bell(None, "theirs"))
            await theirs.until("theirs")

    assert ["theirs"] == theirs.heard


async def test_a_cut_listener_is_back_soon_and_says_that_there_was_a_gap(
    backend: PostgresBackend, database_url: str
) -> None:
    with anyio.fail_after(10):
        async with listening(backend) as ear:
            assert backend.doorbell.last_heard() > -math.inf
            cut_at = time.monotonic()
            assert 1 == await cut_listeners(database_url)
            await ear.until(None)
            assert backend.doorbell.last_heard() > cut_at
            backend.doorbell.ring(Bell("me", "again"))
            await ear.until("again")

    assert [None, "again"] == ear.heard
    assert backend.doorbell.last_heard() == -math.inf


async def test_a_restarted_server_is_heard_again_and_written_to(own_postgres: EmbeddedPostgres) -> None:
    """Everything is dialled anew by itself: pool, journal, notifier, heart and ear."""
    with anyio.fail_after(30):
        async with (
            running_backend(own_postgres.url) as backend,
            living(backend) as me,
            backend.registry() as heart,
            listening(backend, me) as ear,
        ):
            session = await open_session(backend)
            assert (await heart.beat(me, "")).alive
            await to_thread.run_sync(own_postgres.stop)
            for attempt in (
                backend.sessions.get(session),
                backend.log.append_standalone([(session, NewEvent("m"))]),
                heart.beat(me, ""),
            ):
                with pytest.raises(StoreUnavailableError):
                    await attempt
            await to_thread.run_sync(own_postgres.start)
            await ear.until(None)
            backend.doorbell.ring(Bell(me, "again"))
            await ear.until("again")

            assert (await heart.beat(me, "")).alive
            assert await backend.sessions.get(session) is not None
            await backend.log.append_standalone([(session, NewEvent("m"))])


async def test_a_hearer_that_fails_does_not_deafen_the_ear(backend: PostgresBackend) -> None:
    ear = Ear()

    def hear(word: str) -> None:
        ear.hear(word)
        raise RuntimeError(word)

    with anyio.fail_after(5):
        async with backend.doorbell.listening("me", heard=hear, reconnected=ear.reconnected):
            backend.doorbell.ring(Bell("me", "one"))
            await ear.until("one")
            backend.doorbell.ring(Bell("me", "two"))
            await ear.until("two")


async def test_a_word_that_is_too_long_or_unstorable_does_not_raise(backend: PostgresBackend) -> None:
    with anyio.fail_after(5):
        async with listening(backend) as ear:
            backend.doorbell.ring(Bell("me", "x" * 8000))
            backend.doorbell.ring(Bell("me", "\ud800"))
            await anyio.lowlevel.checkpoint()
            while None not in ear.heard and "fine" not in ear.heard:
                backend.doorbell.ring(Bell("me", "fine"))
                await anyio.sleep(0.05)

    assert "fine" in ear.heard


async def test_a_store_that_is_away_at_first_is_told_at_once(database_url: str) -> None:
    nowhere = f"postgresql://user:secret@127.0.0.1:{free_port()}/x"
    async with running_backend(database_url, listen_url=nowhere) as backend:
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1") as caught:
            async with listening(backend):
                pass
    assert "secret" not in str(caught.value)


# ---- Silence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["a bell", "\x01another replica's ping"])
async def test_whoever_hears_something_does_not_ping(
    backend: PostgresBackend, database_url: str, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Each ping wakes every replica; one proves to all of them that bells arrive."""
    monkeypatch.setattr("mcpsession.postgres.ear._SILENCE", (0.4, 0.5))
    everybody, rung = channel(Settings(), None), list[str]()
    bystander = await asyncpg.connect(database_url)
    await bystander.add_listener(everybody, lambda *notification: rung.append(notification[3]))
    with anyio.fail_after(15):
        async with listening(backend, "me"):
            for n in range(40):
                await bystander.execute("SELECT pg_notify($1, $2)", everybody, f"{word} {n}")
                await anyio.sleep(0.05)
            among_others = [heard for heard in rung if heard.startswith("\x01me ")]
            await anyio.sleep(2.0)
    await bystander.close()

    alone = [heard for heard in rung if heard.startswith("\x01me ")][len(among_others) :]
    # The proof, and perhaps one that a busy machine has drawn out of it.
    assert 1 <= len(among_others) <= 2
    assert 2 <= len(alone) <= 5


async def test_an_ear_that_hears_nothing_is_made_anew(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its socket is sound, and somebody answers there."""
    deaf, hear = False, PostgresEar._on_notification
    monkeypatch.setattr(PostgresEar, "_on_notification", lambda *heard: None if deaf else hear(*heard))
    with anyio.fail_after(15):
        async with listening(backend) as ear:
            deaf, began = True, time.monotonic()
            await ear.till(lambda: "disconnected" in ear.states)
            deaf = False
            await ear.until(None)
            backend.doorbell.ring(Bell("me", "again"))
            await ear.until("again")

    assert ["connected", "disconnected", "reconnected"] == ear.states
    # A silence, two pings, and the way back.
    assert time.monotonic() - began < 6.0


async def test_a_process_that_stood_still_does_not_lose_its_ear(backend: PostgresBackend) -> None:
    """A ping was on its way, and what was rung meanwhile lies in the socket."""
    with anyio.fail_after(15):
        async with listening(backend) as ear:
            [pinging] = backend.doorbell._ears
            pinging._ping()
            # As a tool does that blocks the event loop, for longer than any silence and any ping may last.
            time.sleep(4.0)  # noqa: ASYNC251
            backend.doorbell.ring(Bell("me", "after"))
            await ear.until("after")

    assert ["connected"] == ear.states


@pytest.mark.parametrize("replica", [None, "a" * 18, "ü" * 40, "x" * 200])
def test_a_channel_is_at_most_63_bytes(replica: str | None) -> None:
    assert len(channel(Settings(namespace="n" * 200, channel_prefix="p" * 28), replica).encode()) <= 63


# ---- Behind a pooler in transaction mode --------------------------------------------------------------------------


async def test_an_ear_behind_a_transaction_pooler_is_refused_with_the_remedy(pooler_url: str) -> None:
    async with running_backend(pooler_url, prepared_statements=False, echo_timeout=0.5) as backend:
        with pytest.raises(ListenerError, match="MCPSESSION_LISTEN_URL"):
            async with listening(backend):
                pass


async def test_everything_but_the_ear_works_behind_a_transaction_pooler(pooler_url: str, database_url: str) -> None:
    """More tasks than server connections, so that statements of one client do land on different ones."""
    async with running_backend(pooler_url, listen_url=database_url, prepared_statements=False) as backend:

        async def work(n: int) -> None:
            for _ in range(5):
                session = await open_session(backend, ttl=60.0)
                assert {session: pytest.approx(71, abs=2)} == dict(await backend.sessions.touch([session]))
                assert 1 == len(await backend.log.write(opened(session, "t", "m"), producer="p"))
                await backend.log.append_standalone([(session, NewEvent("m"))])
                hold = await backend.holds.take(session, me)
                assert hold is not None
                await backend.mailbox.broadcast([Mail("news", me, body=str(n))])

        with anyio.fail_after(20):
            async with living(backend) as me, listening(backend, me) as ear:
                position = await backend.mailbox.position()
                async with anyio.create_task_group() as tasks:
                    for n in range(10):
                        tasks.start_soon(work, n)
                read = await backend.mailbox.news(position)
                backend.doorbell.ring(Bell(me, "heard"))
                await ear.until("heard")
                await backend.reaping.reap(10)
    assert read is not None
    assert 50 == len(read[0])
