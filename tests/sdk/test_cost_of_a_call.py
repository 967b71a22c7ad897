"""What a short call costs besides its handler, counted: tasks, sends, what is left for the collector."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import anyio
import pytest
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.transport_security import TransportSecuritySettings
from opentelemetry import trace
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host

from mcpsession.sdk.security import TransportSecurity
from mcpsession.sdk.wire import fields_of
from tests.sdk.asgi_client import request
from tests.sdk.replicas import Client, replica, signed_in

MANY = 50


async def _echo(client: Client, at: Any) -> None:
    async with client.echo(at) as response:
        await response.ended()


async def test_a_short_call_makes_one_task_and_two_sends(here, client):
    tasks: Counter[str] = Counter()
    sends = 0
    app = here.app

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        async def count(message: Any) -> None:
            nonlocal sends
            sends += 1
            await send(message)

        await app(scope, receive, count)

    def noted(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        tasks[coroutine.__qualname__] += 1
        return asyncio.Task(coroutine, loop=loop, **more)

    loop = asyncio.get_running_loop()
    here.app = counting
    with anyio.fail_after(10):
        await _echo(client, here)
        await here.parts.journal.flushed()
        sends = 0
        loop.set_task_factory(noted)
        try:
            for _ in range(MANY):
                await _echo(client, here)
        finally:
            loop.set_task_factory(None)
    assert 2 * MANY == sends
    # The handler's, and that of the test's client; the layer's own periods may fall into it.
    assert {"Exchange.run": MANY, "Response.run": MANY} == {name: n for name, n in tasks.items() if n >= MANY // 2}


async def test_an_answered_call_leaves_nothing_for_the_collector(here, client):
    with anyio.fail_after(20):
        await _echo(client, here)
        await here.parts.journal.flushed()
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(MANY):
                await _echo(client, here)
            await here.parts.journal.flushed()
            gc.collect()
            left = Counter(
                f"{type(one).__module__}.{type(one).__qualname__}"
                for one in gc.garbage
                if type(one).__module__.partition(".")[0] in ("mcpsession", "mcp")
            )
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert {} == {name: number for name, number in left.items() if number >= MANY}


@pytest.mark.parametrize("traced", ["by the client", "by a provider", "by nobody"])
async def test_spans_are_made_where_somebody_may_see_them(here, client, monkeypatch, traced):
    spans = 0
    real = OpenTelemetryMiddleware.__call__

    async def counting(self: Any, ctx: Any, call_next: Any) -> Any:
        nonlocal spans
        spans += 1
        return await real(self, ctx, call_next)

    monkeypatch.setattr(OpenTelemetryMiddleware, "__call__", counting)
    if traced == "by a provider":
        monkeypatch.setattr("mcpsession.sdk.kernel.get_tracer_provider", lambda: object())
    meta = {"_meta": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    params = {"name": "echo", "arguments": {"text": "x"}, **(meta if traced == "by the client" else {})}
    with anyio.fail_after(5):
        async with client.post(here, {**message, "params": params}) as response:
            await response.ended()
    assert (0 if traced == "by nobody" else 1) == spans
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


async def test_headers_that_passed_are_not_looked_at_again_and_others_are():
    local = TransportSecuritySettings(
        enable_dns_rebinding_protection=True, allowed_hosts=["here:*"], allowed_origins=["http://here:*"]
    )
    security, asked = TransportSecurity(local), 0
    real = security._middleware.validate_request

    async def counting(request: Request, is_post: bool = False) -> Any:
        nonlocal asked
        asked += 1
        return await real(request, is_post)

    security._middleware.validate_request = counting  # type: ignore[method-assign]

    async def status(method: str, *headers: tuple[bytes, bytes]) -> int:
        scope = {"type": "http", "method": method, "path": "/mcp", "headers": headers}
        refusal = await security.refusal(Request(scope), fields_of(scope))
        return 0 if refusal is None else refusal.status_code

    json, here, there = (b"content-type", b"application/json"), (b"host", b"here:1"), (b"host", b"there:1")
    assert [0, 0, 0] == [await status("POST", json, here) for _ in range(3)]
    assert 1 == asked
    assert [421, 421] == [await status("POST", json, there) for _ in range(2)]
    assert 3 == asked
    # The first of two counts, as for the SDK; without a content type only what has no body may pass.
    assert 421 == await status("POST", json, there, here)
    assert [400, 0, 400] == [await status(method, here) for method in ("POST", "GET", "POST")]
    assert 403 == await status("POST", json, here, (b"origin", b"http://evil"))


class _Seen:
    def __init__(self, app: Any, seen: list[str]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._seen.append(scope["type"])
        await self._app(scope, receive, send)


async def test_an_applications_own_middleware_sees_each_request(database_url):
    seen: list[str] = []
    async with replica(database_url) as one:
        one.app.user_middleware.insert(0, Middleware(_Seen, seen))
        with anyio.fail_after(5):
            await _echo(await Client().initialize(one), one)
    assert ["http"] * 3 == seen


async def test_the_endpoints_own_path_is_not_routed(here, client):
    async def never(*_: Any) -> None:
        raise AssertionError

    here.app.router.middleware_stack = never
    with anyio.fail_after(5):
        await _echo(client, here)


async def test_a_handler_that_comes_after_the_end_is_refused_and_not_left_in_flight(database_url):
    async with replica(database_url) as one:
        client = await Client().initialize(one)
        manager = one.server._lowlevel_server.session_manager
        manager._handlers._loop = None
        with anyio.fail_after(5):
            async with client.echo(one) as response:
                await response.ended()
        assert 503 == response.status
        assert 0 == len(one.parts.in_flight)
        await one.parts.journal.flushed()
        # Its stream had been begun: it has its end, too, or its id would be taken for as long as the layer runs.
        assert {} == one.parts.journal._open


async def test_what_is_not_the_endpoints_own_path_goes_through_the_app(here):
    got: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        got.append(message)

    scope = {"type": "http", "method": "GET", "path": "/nowhere", "headers": [], "query_string": b"", "root_path": ""}
    with anyio.fail_after(5):
        await here.app(scope, receive, send)
    assert 404 == got[0]["status"]


async def test_calls_wait_while_the_journal_is_full_and_nothing_piles_up(database_url):
    """Answers leave before they are written, so a full journal has to hold back whoever would add to it."""
    size, limit = 100_000, 300_000
    async with replica(database_url, journal_bytes=limit, dead_after=4.0) as one:
        client = await Client().initialize(one)

        async def script(ctx: Any) -> str:
            return "x" * size

        one.scripts["large"] = script
        await one.parts.journal.flushed()
        log = one.backend.log
        log.before["write"].close()
        answered = 0

        async def call() -> None:
            nonlocal answered
            async with client.call(one, "large") as response:
                await response.ended()
            answered += 1

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(call)
                    await anyio.wait_all_tasks_blocked()
                # 3 fill it, one more is over it, and a batch may be on its way.
                assert one.parts.journal.pending_bytes <= limit + 2 * size
                assert answered < 10
                log.before["write"].open()
        assert 20 == answered


async def test_what_stands_before_the_endpoint_or_around_its_route_is_asked_as_ever(database_url):
    """A Host route looks at a header; whoever wraps a route, with authentication say, means all of its requests."""
    seen: list[str] = []

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("another app")(scope, receive, send)

    async with replica(database_url) as one:
        route = next(route for route in one.app.routes if getattr(route, "path", "") == "/mcp")
        route.app = _Seen(route.app, seen)
        with anyio.fail_after(5):
            await _echo(await Client().initialize(one), one)
    assert ["http"] * 3 == seen

    async with replica(database_url) as one:
        one.app.router.routes.insert(0, Host("other.example", app=other))
        with anyio.fail_after(5):
            async with request(one.app, "GET", headers={"host": "other.example"}) as response:
                assert b"another app" == await response.ended()
            await _echo(await Client().initialize(one), one)


async def test_a_session_in_the_cache_is_still_only_its_owners(here):
    alice, mallory = signed_in(here, "alice"), signed_in(here, "mallory")
    with anyio.fail_after(10):
        client = await Client().initialize(alice)
        await _echo(client, alice)
        # The way that a session takes from the cache waits for nothing, and asks for its owner all the same.
        assert here.parts.cache.peek(client.session_id) is not None
        for stranger in (mallory, here):
            async with client.echo(stranger) as response:
                await response.ended()
            assert 404 == response.status
        async with client.echo(alice) as response:
            await response.ended()
        assert 200 == response.status
