"""What a replica remembers of sessions never outlives the truth: the cache's rules, with two replicas."""

from __future__ import annotations

import time

import anyio
import asyncpg
import pytest

from mcpsession import SessionLayer
from mcpsession.records import Admission, Session
from tests.postgres.ears import cut_hearts
from tests.sdk.gates import until
from tests.sdk.replicas import Client, replica, text_of


async def status_of_a_call(client, at):
    async with client.echo(at) as response:
        await response.ended()
        return response.status


async def test_a_row_read_before_an_invalidation_is_not_kept(here, there, client):
    selected = here.backend.sessions.after["get"]
    selected.close()
    with anyio.fail_after(10):
        # The session is read here while it lives; before the row arrives it is ended there, and the mail heard here.
        async with client.echo(here) as response:
            await selected.reached.wait()
            assert 200 == await client.delete(there)
            selected.open()
            await response.ended()
        # No lease, no ttl has passed: only the counter of invalidations can have kept it out.
        assert 404 == await status_of_a_call(client, here)
        assert 0 == len(here.parts.cache)


async def test_a_session_ended_on_one_replica_is_gone_on_the_other_when_the_answer_comes(here, there, client):
    with anyio.fail_after(10):
        assert 200 == await status_of_a_call(client, here)
        assert 1 == len(here.parts.cache)
        assert 200 == await client.delete(there)
        assert 404 == await status_of_a_call(client, here)


async def test_an_entry_is_not_used_once_its_proof_is_older_than_the_lease(here, client):
    with anyio.fail_after(10):
        await status_of_a_call(client, here)
        reads = here.backend.sessions.calls["get"]
        await status_of_a_call(client, here)
        assert reads == here.backend.sessions.calls["get"]

        cache = here.parts.cache
        proven_at = cache._proven_at
        cache._proven_at = lambda: proven_at() - here.parts.settings.cache_lease
        await status_of_a_call(client, here)
        assert reads + 1 == here.backend.sessions.calls["get"]


async def test_an_end_that_nobody_rang_for_is_believed_no_longer_than_the_lease_however_slow_the_mail(here, client):
    """The listener hears all the while; whoever ended the session died before its bell, and the mail cannot be read."""
    with anyio.fail_after(10):
        await status_of_a_call(client, here)
        await here.parts.post_office.run_once()
        here.backend.mailbox.before["news"].close()
        await here.backend.sessions.end([client.session_id], "terminated", sender="dead", claim=False)
        ended = time.monotonic()
        await until(lambda: here.parts.cache.peek(client.session_id) is None)
        assert time.monotonic() - ended < here.parts.settings.cache_lease
        assert here.parts.listening.hears
        assert 404 == await status_of_a_call(client, here)
        here.backend.mailbox.before["news"].open()


async def test_a_replica_that_hears_nothing_believes_nothing(here, client):
    """It would learn a second late what it can learn at once by reading."""
    with anyio.fail_after(10):
        await status_of_a_call(client, here)
        assert here.parts.cache.peek(client.session_id) is not None
        here.parts.listening.note("disconnected")
        assert here.parts.cache.peek(client.session_id) is None
        here.parts.listening.note("reconnected")
        assert here.parts.cache.peek(client.session_id) is not None


async def test_without_looks_at_the_mail_nothing_is_believed_for_longer_than_the_lease(here, client):
    """However well the listener hears: bells are no proof, they are rung after the commit, or not at all."""
    with anyio.fail_after(10):
        await status_of_a_call(client, here)
        here.parts.heartbeat.on_pulse = lambda *_: None
        proven = here.parts.post_office.proven_at
        assert here.parts.cache.peek(client.session_id) is not None
        await until(lambda: here.parts.cache.peek(client.session_id) is None)
        assert time.monotonic() - proven >= here.parts.settings.cache_lease
        assert 200 == await status_of_a_call(client, here)


@pytest.mark.parametrize("settings", [{"cache_lease": 0.3}, {"beat": 5.0, "dead_after": 15.0}])
async def test_where_beats_are_rare_others_look_often_enough_for_the_cache_to_be_believed(database_url, settings):
    async with replica(database_url, **settings) as here:
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            await status_of_a_call(client, here)
            proven = here.parts.post_office.proven_at
            for _ in range(3):
                before = proven
                await until(lambda before=before: here.parts.post_office.proven_at > before)
                proven = here.parts.post_office.proven_at
                assert proven - before < here.parts.settings.cache_lease


async def test_a_heart_that_found_the_store_anew_empties_the_cache(here, client, database_url):
    """It may be another server, where numbers of lost mail hide what is new."""
    with anyio.fail_after(10):
        await status_of_a_call(client, here)
        assert 1 == len(here.parts.cache)
        assert 1 == await cut_hearts(database_url)
        await until(lambda: 0 == len(here.parts.cache))
        assert 200 == await status_of_a_call(client, here)


@pytest.mark.parametrize("store", ["postgres", "memory"])
async def test_what_an_earlier_run_of_the_layer_knew_is_forgotten(database_url, store):
    """Between the two nobody heard of what ended."""
    layer = SessionLayer.from_url(database_url if store == "postgres" else "memory://")
    with anyio.fail_after(10):
        async with layer.running() as parts:
            [session] = await parts.sessions.create([Session("s" * 43, initialized=True)], admission=Admission())
            await parts.cache.load(session.id)
            assert parts.cache.peek(session.id) is not None
        async with layer.running() as parts:
            assert parts.cache.peek(session.id) is None


async def test_every_reconnect_of_the_listener_empties_the_cache(here, client):
    with anyio.fail_after(10):
        await status_of_a_call(client, here)
        assert 1 == len(here.parts.cache)
        connection = await asyncpg.connect(here.backend._direct.url)
        cleared = anyio.Event()
        clear = here.parts.cache.clear

        def noted():
            clear()
            cleared.set()

        here.parts.cache.clear = noted
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'"
        )
        await connection.close()
        await cleared.wait()
        assert 0 == len(here.parts.cache)
        assert 200 == await status_of_a_call(client, here)


async def test_a_session_that_expired_in_the_store_is_not_served_from_memory(database_url):
    # Slack and coarse steps made small: the row's end is the ttl's. Lease and ttl of the cache are far away.
    settings = {"session_ttl": 0.3, "touch_flush": 0.02, "touch_step": 0.01, "cache_lease": 60.0}
    async with replica(database_url, **settings) as here:
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            assert 200 == await status_of_a_call(client, here)
            assert here.parts.cache.peek(client.session_id) is not None
            await until(lambda: here.parts.cache.peek(client.session_id) is None)
            assert await here.backend.sessions.get(client.session_id) is None
            assert 404 == await status_of_a_call(client, here)


@pytest.mark.parametrize(("cache_ttl", "reads"), [(60.0, 1), (0.0, 3)])
async def test_without_a_cache_ttl_each_request_reads_its_session(database_url, cache_ttl, reads):
    async with replica(database_url, cache_ttl=cache_ttl) as here:
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            before = here.backend.sessions.calls["get"]
            for _ in range(3):
                async with client.echo(here) as response:
                    assert "hello" == text_of(await response.message())
            assert reads == here.backend.sessions.calls["get"] - before
