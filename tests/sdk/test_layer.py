"""The layer as a whole: entered, left, entered again, drained, and what it says when it cannot start."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import asyncpg
import pytest

from mcpsession import SessionLayer
from mcpsession.errors import ConfigurationError, SchemaError, StoreUnavailableError
from mcpsession.records import Admission, Session
from tests.sdk.replicas import Client, replica

FAST = {"beat": 0.05, "dead_after": 0.3, "fence_margin": 0.1}


async def test_a_layer_that_was_left_can_be_entered_again_and_beats_on() -> None:
    layer = SessionLayer.from_url("memory://", **FAST)
    async with layer:
        first = layer.health().replica
    assert "stopped" == layer.health().status
    async with layer:
        assert first != layer.health().replica
        # Past the time after which one that does not beat is fenced.
        left = time.monotonic() + 2 * FAST["dead_after"]
        with anyio.fail_after(5):
            while time.monotonic() < left:
                assert "ok" == layer.health().status
                await anyio.sleep(FAST["beat"])


async def test_entering_a_running_layer_again_is_free_and_the_last_to_leave_stops_it() -> None:
    layer = SessionLayer.from_url("memory://")
    async with layer:
        async with layer:
            assert "ok" == layer.health().status
        assert "ok" == layer.health().status
    assert "stopped" == layer.health().status


async def test_a_second_drain_waits_for_the_first() -> None:
    layer = SessionLayer.from_url("memory://")
    ended: list[str] = []

    class Call:
        request_id = 1
        method = "tools/call"
        began = 0.0

        def end(self, message: str) -> None: ...
        def cancel(self) -> None: ...
        def sever(self) -> None: ...

    session, call = Session(id="s"), Call()
    async with layer.running() as parts, anyio.create_task_group() as tasks:
        assert parts.in_flight.enter(session, 1, call)

        async def drain(name: str) -> None:
            await layer.drain(grace=30)
            ended.append(name)

        tasks.start_soon(drain, "first")
        tasks.start_soon(drain, "second")
        await anyio.wait_all_tasks_blocked()
        assert "draining" == layer.health().status
        assert [] == ended
        parts.in_flight.leave(session, 1, call)
    assert {"first", "second"} == set(ended)


async def test_expiry_handlers_get_the_whole_session_and_a_failing_one_does_not_keep_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = SessionLayer.from_url("memory://", reap_every=0.05, touch_flush=0.01, touch_step=0.01, session_ttl=0.05)
    told: list[Session] = []
    buried = anyio.Event()

    @layer.on_expired
    def fail(session: Session) -> None:
        raise ValueError(session.id)

    @layer.on_expired
    async def remember(session: Session) -> None:
        told.append(session)
        buried.set()

    async with layer.running() as parts:
        await parts.sessions.create([Session(id="s", owner="me", metadata={"k": 1}, ttl=0.05)], admission=Admission())
        with anyio.fail_after(5):
            await buried.wait()
    assert [("s", "me", {"k": 1}, "expired")] == [(s.id, s.owner, dict(s.metadata), s.status) for s in told]
    assert "failed; session" in caplog.text


async def test_an_unreachable_database_is_one_clear_error() -> None:
    layer = SessionLayer.from_url("postgresql://app:secret@127.0.0.1:9/app", connect_timeout=2.0)
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9.*check the host and port") as refused:
        async with layer:
            pass
    assert "secret" not in str(refused.value)


async def test_a_missing_schema_is_one_clear_error_that_names_the_command(empty_database_url: str) -> None:
    layer = SessionLayer.from_url(empty_database_url)
    with pytest.raises(SchemaError, match="run: mcpsession migrate --url"):
        async with layer:
            pass


def test_an_event_store_is_refused_with_the_reason() -> None:
    from mcp.server.mcpserver import MCPServer

    layer = SessionLayer.from_url("memory://")
    with pytest.raises(ConfigurationError, match="the layer is the event store"):
        layer.streamable_http_app(MCPServer("s"), event_store=object())
    with pytest.raises(ConfigurationError, match="a stateless server has no sessions"):
        layer.streamable_http_app(MCPServer("s"), stateless_http=True)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        layer.streamable_http_app(MCPServer("s"), statefull=True)


async def test_an_embedded_url_starts_a_private_postgres_with_its_tables_and_keeps_its_data(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/db"
    async with SessionLayer.from_url(url).running() as parts:
        await parts.sessions.create([Session(id="s", ttl=60.0)], admission=Admission())
    async with SessionLayer.from_url(url) as layer:
        assert "ok" == layer.health().status
        assert await layer.sessions.get("s") is not None


async def test_what_clients_have_is_in_the_log_also_if_the_layer_is_cancelled(database_url: str) -> None:
    """The journal lingers for what nobody waits for; a cancellation of whoever runs the layer must not end it first."""
    with anyio.fail_after(20), anyio.CancelScope() as scope:
        async with replica(database_url) as one:
            client = await Client().initialize(one)
            await one.parts.journal.flushed()
            async with client.call(one, "", tool="echo", id="last", arguments={"text": "x"}) as response:
                await response.ended()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT finished_at IS NOT NULL AS finished FROM mcpsession.streams WHERE request_ids = $1", ['"last"']
        )
    finally:
        await connection.close()
    assert [True] == [row["finished"] for row in rows]
