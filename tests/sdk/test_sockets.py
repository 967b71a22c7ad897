"""What may reach a socket and when: no round trip for a short call, no end for a slow reader, nothing while fenced."""

from __future__ import annotations

import math

import anyio

from mcpsession.errors import StoreUnavailableError
from tests.sdk.gates import Gated, settle, until
from tests.sdk.replicas import Client, replica, text_of


async def test_a_steady_short_call_waits_for_no_round_trip(here, client):
    with anyio.fail_after(5):
        async with client.echo(here) as response:
            await response.ended()
        await here.parts.journal.flushed()

        parts = [part for part in vars(here.backend).values() if isinstance(part, Gated)]
        for part in parts:
            part.all_shut = True
        async with here.backend._journal._turn, here.backend._notifier._turn:
            for _ in range(3):
                async with client.echo(here) as response:
                    assert "hello" == text_of(await response.message())
        # What hangs in the gates would hold the shutdown up.
        for part in parts:
            part.let_go()


async def test_a_client_that_stops_reading_is_cut_and_resumes_everything_in_order(database_url, monkeypatch):
    monkeypatch.setattr("mcpsession.sdk.outbound.STUCK", 0.1)
    release = anyio.Event()

    async def script(ctx):
        await ctx.report_progress(0)
        await release.wait()
        for number in range(1, 50):
            await ctx.report_progress(number)
        return "done"

    async with replica(database_url, outbound_frames=8) as here:
        here.scripts["talk"] = script
        client = await Client().initialize(here)
        with anyio.fail_after(10):
            async with client.call(here, "talk", token="t") as response:
                assert 0 == (await response.message())["params"]["progress"]
                response.stop_reading()
                release.set()
                await here.parts.in_flight.finished()
                response.read_on()
                # Cut: the answer does not come on this socket.
                await response.ended()
            seen = [frame.message for frame in response.frames if frame.message]
            assert all("result" not in message for message in seen)
            async with client.get(here, response.last_id) as resumed:
                seen += await resumed.messages()
    assert list(range(50)) == [message["params"]["progress"] for message in seen[:-1]]
    assert "done" == text_of(seen[-1])


async def test_while_its_last_beat_is_too_old_no_frame_reaches_a_socket_until_it_beats_again(database_url):
    away = True

    def stumble(backend):
        registry = backend.registry

        def stumbling():
            return Stumbling(registry(), lambda: hold and away)

        backend.registry = stumbling

    hold = False
    talk, talked, ran, end = anyio.Event(), anyio.Event(), anyio.Event(), anyio.Event()

    async def script(ctx):
        await ctx.report_progress(1)
        await talk.wait()
        await ctx.report_progress(2)
        talked.set()
        await end.wait()
        return "done"

    async def new(ctx):
        ran.set()
        return "ran"

    settings = {"beat": 0.05, "dead_after": 1.0, "fence_margin": 0.2}
    async with replica(database_url, wrap=stumble, **settings) as here:
        here.scripts.update(talk=script, new=new)
        client = await Client().initialize(here)
        heart = here.parts.heartbeat
        with anyio.fail_after(10):
            async with client.call(here, "talk", token="t") as response:
                assert 1 == (await response.message())["params"]["progress"]
                hold = True
                # Its clock says that the last confirmed beat was long ago; a beat under way may still land once.
                while heart.may_write():
                    heart._last_beat = -math.inf
                    await anyio.sleep(0.06)
                chunks = len(response.chunks)
                talk.set()
                await talked.wait()
                await settle()
                assert chunks == len(response.chunks)

                # A new request does not run either.
                async with client.call(here, "new") as waiting:
                    await settle()
                    assert (0, False) == (waiting.status, ran.is_set())
                    away = False
                    assert "ran" == text_of(await waiting.message())
                assert 2 == (await response.message())["params"]["progress"]
                end.set()
                assert "done" == text_of(await response.message())


class Stumbling:
    """The real registry, the beats of which fail while it is told so. Lives in the heartbeat's thread."""

    def __init__(self, context, away):
        self._context = context
        self._away = away

    async def __aenter__(self):
        self._registry = await self._context.__aenter__()
        return self

    async def __aexit__(self, *error):
        return await self._context.__aexit__(*error)

    def __getattr__(self, name):
        return getattr(self._registry, name)

    async def beat(self, replica, position):
        if self._away():
            raise StoreUnavailableError("a test says so")
        return await self._registry.beat(replica, position)


async def test_a_silent_stream_sends_comments_to_stay_alive_and_touches_its_session(database_url):
    end = anyio.Event()

    async def script(ctx):
        await end.wait()
        return "done"

    async with replica(database_url, keep_alive=0.05) as here:
        here.scripts["long"] = script
        client = await Client().initialize(here)
        with anyio.fail_after(5):
            async with client.call(here, "long") as response:
                await until(lambda: any(frame.comment for frame in response.frames))
                assert client.session_id in here.parts.touches._active
                end.set()
                assert "done" == text_of(await response.message())
