"""What a replica remembers of sessions never outlives the truth: the cache's rules, with two replicas."""

from __future__ import annotations

import anyio
import pytest

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


async def test_an_entry_is_not_used_once_the_listeners_echo_is_older_than_the_lease(here, client):
    with anyio.fail_after(10):
        await status_of_a_call(client, here)
        reads = here.backend.sessions.calls["get"]
        await status_of_a_call(client, here)
        assert reads == here.backend.sessions.calls["get"]

        cache = here.parts.cache
        listening = cache._last_echo
        cache._last_echo = lambda: listening() - here.parts.settings.cache_lease
        await status_of_a_call(client, here)
        assert reads + 1 == here.backend.sessions.calls["get"]


async def test_every_reconnect_of_the_listener_empties_the_cache(here, client):
    import asyncpg

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
