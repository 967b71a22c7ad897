"""F70: the listening connection is a replica's own, looked after, and it says how it is."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import anyio
import pytest

from mcpsession import SessionLayer
from mcpsession.model import Bell
from mcpsession.postgres.address import keep_alive
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.settings import Settings
from tests.postgres.ears import Ear, ListenerRole, cut_listeners, fetch, free_port, listening
from tests.postgres.stores import running_backend

NAMESPACE = "states"


@pytest.fixture
async def backend(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url) as backend:
        yield backend


async def test_f70_a_listener_whose_backend_is_terminated_is_reconnected_within_a_second(
    backend: PostgresBackend, database_url: str
) -> None:
    with anyio.fail_after(10):
        async with listening(backend) as ear:
            assert ["connected"] == ear.states
            cut_at = time.monotonic()
            assert 1 == await cut_listeners(database_url)
            await ear.till(lambda: "reconnected" in ear.states)
            took = time.monotonic() - cut_at

    assert took < 1.0
    assert ["connected", "disconnected", "reconnected"] == ear.states


async def test_f70_it_is_back_within_a_second_also_the_fifth_time(backend: PostgresBackend, database_url: str) -> None:
    with anyio.fail_after(15):
        async with listening(backend) as ear:
            for _ in range(4):
                known = ear.states.count("reconnected")
                await cut_listeners(database_url)
                await ear.till(lambda known=known: ear.states.count("reconnected") > known)
            cut_at = time.monotonic()
            await cut_listeners(database_url)
            await ear.till(lambda: ear.states.count("reconnected") == 5)
            took = time.monotonic() - cut_at

    assert took < 1.0


async def test_f70_each_attempt_that_failed_is_told_and_the_next_one_waits_longer(
    database_url: str, listener_role: ListenerRole
) -> None:
    failed_at: list[float] = []
    with anyio.fail_after(20):
        async with (
            running_backend(database_url, listen_url=listener_role.url) as backend,
            listening(backend) as ear,
        ):
            await listener_role.lock_out()
            for number in range(1, 6):
                await ear.till(lambda number=number: ear.states.count("failed") >= number)
                failed_at.append(time.monotonic())
            await listener_role.let_in()
            await ear.till(lambda: "reconnected" in ear.states)

    assert ["connected", "disconnected", *["failed"] * (len(ear.states) - 3), "reconnected"] == ear.states
    pauses = [later - earlier for earlier, later in pairwise(failed_at)]
    # Jittered between the half and the whole, doubled each time: two steps later it is longer for sure.
    assert pauses[2] > pauses[0]
    assert pauses[3] > pauses[1]


async def test_f70_a_gap_is_told_after_the_state_and_before_the_first_word(
    backend: PostgresBackend, database_url: str
) -> None:
    told: list[str] = []
    ear = Ear()

    def hear(word: str) -> None:
        told.append(word)
        ear.hear(word)

    with anyio.fail_after(10):
        async with backend.doorbell.listening(
            "me", heard=hear, reconnected=lambda: told.append("gap"), state=told.append
        ):
            await cut_listeners(database_url)
            while "word" not in told:
                backend.doorbell.ring(Bell("me", "word"))
                await anyio.sleep(0.02)

    first = told.index("reconnected")
    assert ["reconnected", "gap", "word"] == told[first : first + 3]


async def test_f70_a_state_callback_that_fails_does_not_deafen_the_ear(
    backend: PostgresBackend, database_url: str
) -> None:
    ear = Ear()

    def state(_: str) -> None:
        raise RuntimeError("no")

    with anyio.fail_after(10):
        async with backend.doorbell.listening("me", heard=ear.hear, reconnected=ear.reconnected, state=state):
            await cut_listeners(database_url)
            await ear.until(None)
            backend.doorbell.ring(Bell("me", "word"))
            await ear.until("word")


async def test_f70_the_operating_system_watches_the_listening_socket(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[Any] = []

    def observed(connection: Any) -> None:
        connections.append(connection)
        keep_alive(connection)

    monkeypatch.setattr("mcpsession.postgres.ear.keep_alive", observed)
    async with listening(backend):
        [connection] = connections
        watched = connection._transport.get_extra_info("socket")
        if watched.family == socket.AF_UNIX:
            pytest.skip("a socket file needs no keepalive; to run this: give MCPSESSION_TEST_URL a host")

        def option(level: int, name: int) -> int:
            return int(watched.getsockopt(level, name))

        assert 1 == option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert [10, 5, 3] == [
            option(socket.IPPROTO_TCP, name) for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]


async def test_f70_the_listening_connection_has_no_transaction_open_and_serves_nothing_else(
    backend: PostgresBackend, database_url: str
) -> None:
    async with listening(backend):
        rows = await fetch(
            database_url,
            "SELECT state, xact_start FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'LISTEN%' AND pid <> pg_backend_pid()",
        )

    assert [("idle", None)] == [tuple(row) for row in rows]


# ---- Through the layer --------------------------------------------------------------------------------------------


async def test_f70_the_layer_tells_its_callbacks_and_its_health(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = SessionLayer.from_url(database_url, namespace=NAMESPACE)
    ear = Ear()

    @layer.on_listener
    def failing(_: str) -> None:
        raise RuntimeError("a callback that fails")

    layer.on_listener(ear.state)
    assert "off" == layer.health().listener
    with anyio.fail_after(10):
        async with layer:
            assert ["connected"] == ear.states
            assert ("ok", "connected", []) == (layer.health().status, layer.health().listener, layer.health().problems)
            await cut_listeners(database_url)
            await ear.till(lambda: "reconnected" in ear.states)
            assert ("ok", "reconnected", []) == (
                layer.health().status,
                layer.health().listener,
                layer.health().problems,
            )
        assert "off" == layer.health().listener
        async with layer:
            pass

    assert ["connected", "disconnected", "reconnected", "connected"] == ear.states
    assert "a listener callback failed" in caplog.messages


async def test_f70_a_replica_that_goes_on_under_a_new_id_was_deaf_between(database_url: str) -> None:
    layer = SessionLayer.from_url(database_url, namespace=NAMESPACE, beat=0.1)
    ear = Ear()
    layer.on_listener(ear.state)
    with anyio.fail_after(10):
        async with layer:
            await fetch(database_url, "UPDATE mcpsession.replicas SET dead_at = now()")
            await ear.till(lambda: "reconnected" in ear.states)

    assert ["connected", "disconnected", "reconnected"] == ear.states


async def test_f70_a_missing_database_server_is_tried_again_at_most_every_five_seconds(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log does not grow with each attempt."""
    nowhere = f"postgresql://user@127.0.0.1:{free_port()}/x"
    settings = Settings(namespace=NAMESPACE, listener="optional")
    ear = Ear()
    caplog.set_level(logging.WARNING, "mcpsession.postgres.ear")
    backend = PostgresBackend(database_url, nowhere, settings)
    async with (
        backend.running(),
        backend.doorbell.listening("me", heard=ear.hear, reconnected=ear.reconnected, state=ear.state),
    ):
        assert ["failed"] == ear.states
        with anyio.move_on_after(3.0):
            await anyio.sleep_forever()

    # Pauses of 0.1, 0.2, 0.4, 0.8, 1.6 s, at least half of it.
    assert 5 <= len(ear.states) <= 7
    assert 1 == len(caplog.messages)
