"""What runs here for whom, and the end of that without the end of the session."""

from __future__ import annotations

import builtins

import anyio
import pytest

from mcpsession.model import fingerprint
from tests.sdk.gates import settle, until
from tests.sdk.replicas import Client, text_of


async def forever(ctx):
    await ctx.report_progress(1)
    await anyio.sleep_forever()


async def test_all_that_runs_here_is_listed_the_oldest_first(here, there, client):
    here.scripts["forever"] = forever
    with anyio.fail_after(10):
        other = await Client().initialize(there)
        async with (
            client.call(here, "forever", id="a", token="t") as cut,
            client.get(here),
            other.call(here, "forever", id=2, token="t") as call,
        ):
            await cut.message()
            await call.message()
            await until(lambda: len(here.parts.standalones))
            async with client.get(there, cut.last_id):
                await until(lambda: [work for work in there.layer.running_here() if work.request_id is not None])
                listed = [
                    (work.kind, work.session_id, work.request_id, work.method) for work in here.layer.running_here()
                ]
                expected = [
                    ("request", client.session_id, "a", "tools/call"),
                    ("standalone", client.session_id, None, None),
                    ("request", other.session_id, 2, "tools/call"),
                ]
                assert sorted(expected, key=str) == sorted(listed, key=str)
                ages = [work.started for work in here.layer.running_here()]
                assert sorted(ages, reverse=True) == ages
                assert 0 < ages[-1] < 10
                assert {here.id} == {work.replica for work in here.layer.running_here()}
                assert 2 == len(here.layer.running_here(client.session_id))
                assert [] == here.layer.running_here("never-was")

                [resumed] = there.layer.running_here()
                assert ("stream", client.session_id, "a") == (resumed.kind, resumed.session_id, resumed.request_id)
                assert fingerprint(client.session_id) == resumed.session
                assert client.session_id not in repr(resumed)
                await here.layer.close_here(client.session_id)
                await here.layer.close_here(other.session_id)
    assert [] == here.layer.running_here()


async def test_closing_a_session_here_ends_its_work_here_and_nothing_else(here, there, client):
    release = anyio.Event()

    async def wait(ctx):
        await ctx.report_progress(1)
        await release.wait()
        return "done"

    here.scripts["wait"] = there.scripts["wait"] = wait
    with anyio.fail_after(10):
        other = await Client().initialize(here)
        async with (
            client.call(here, "wait", token="t") as call,
            client.get(here) as standing,
            client.call(there, "wait", token="t") as elsewhere,
            other.call(here, "wait", token="t") as others,
        ):
            for response in (call, elsewhere, others):
                await response.message()
            await until(lambda: len(here.parts.standalones))
            assert 2 == await here.layer.close_here(client.session_id)
            assert [] == here.layer.running_here(client.session_id)

            [answer] = await call.messages()
            assert -32000 == answer["error"]["code"]
            assert "ended by whoever runs this server" in answer["error"]["message"]
            # Told to reconnect, and when.
            assert b"retry: 1000" in await standing.ended()
            async with client.get(here, standing.last_id) as again:
                assert 200 == await again.started()
            release.set()
            assert ["done", "done"] == [text_of(await response.message()) for response in (elsewhere, others)]
        async with client.echo(here) as response:
            assert "hello" == text_of(await response.message())


async def test_closing_a_session_here_cuts_a_resumed_stream_which_is_resumed_again(here, there, client):
    release = anyio.Event()

    async def wait(ctx):
        await ctx.report_progress(1)
        await release.wait()
        return "done"

    here.scripts["wait"] = wait
    with anyio.fail_after(10):
        async with client.call(here, "wait", token="t") as cut:
            await cut.message()
        async with client.get(there, cut.last_id) as resumed:
            await until(lambda: len(there.parts.readers))
            assert 1 == await there.layer.close_here(client.session_id)
            assert [] == await resumed.messages()
        async with client.get(there, cut.last_id) as resumed:
            release.set()
            assert "done" == text_of(await resumed.message())


async def test_a_handler_that_does_not_listen_is_not_waited_for(here, client, monkeypatch):
    monkeypatch.setattr("mcpsession.sdk.supervision._DEADLINE", 0.05)
    entered, release = anyio.Event(), anyio.Event()

    async def deaf(ctx):
        entered.set()
        with anyio.CancelScope(shield=True):
            await release.wait()

    here.scripts["deaf"] = deaf
    with anyio.fail_after(5):
        async with client.call(here, "deaf") as call:
            await entered.wait()
            assert 1 == await here.layer.close_here(client.session_id)
            assert 1 == len(here.layer.running_here(client.session_id))
            release.set()
            # It has made something after all.
            assert "None" == text_of(await call.message())


async def test_a_session_without_work_here_has_nothing_to_close(here, client):
    assert 0 == await here.layer.close_here(client.session_id)


@pytest.mark.parametrize("error", ["ValueError", "SystemExit", "RecursionError", "Cancelled"])
async def test_a_crash_of_one_sessions_handler_touches_no_other(here, client, error):
    release = anyio.Event()

    async def crash(ctx):
        await ctx.report_progress(1)
        raise anyio.get_cancelled_exc_class() if error == "Cancelled" else getattr(builtins, error)("crash")

    async def wait(ctx):
        await ctx.report_progress(1)
        await release.wait()
        return "done"

    here.scripts.update(crash=crash, wait=wait)
    with anyio.fail_after(10):
        other = await Client().initialize(here)
        async with other.call(here, "wait", token="t") as call, other.get(here) as standing:
            await call.message()
            async with client.call(here, "crash", token="t") as crashed:
                messages = await crashed.messages()
            assert "error" in messages[-1] or messages[-1]["result"]["isError"]
            await settle()
            assert not standing.complete
            release.set()
            assert "done" == text_of(await call.message())
        # Its own session lives as well.
        async with client.echo(here) as response:
            assert "hello" == text_of(await response.message())
