"""Updates of a resource reach the sessions that have subscribed to it, through whichever replica, and no others."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.errors import LimitExceededError, NotSubscribedError, SessionNotFoundError, UnstorableTextError
from mcpsession.sdk import levels
from mcpsession.sdk.levels import SessionChanges
from tests.sdk.gates import settle, until
from tests.sdk.newsroom import (
    END,
    ask,
    heard,
    make_refusing_server,
    numbered,
    standing,
    subscribe,
    unsubscribe,
    updated,
)
from tests.sdk.replicas import Client, replica

ONE, TWO = "test://1", "test://2"


@pytest.fixture
async def yonder(database_url, there):
    async with replica(database_url) as three:
        yield three


async def test_f80_all_sessions_that_subscribed_are_notified_once_and_no_other(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        other, third = await Client().initialize(here), await Client().initialize(there)
        async with standing(client, here) as a, standing(other, there) as b, standing(third, there) as c:
            # Each through the replica that does not hold its stream.
            await subscribe(client, there, ONE)
            await subscribe(other, here, ONE)
            await subscribe(other, here, ONE)
            await subscribe(third, here, TWO)
            for uri in (ONE, TWO, f"{ONE}/", "TEST://1"):
                await publish(updated(uri))
            await publish(END)
            assert [updated(ONE)] == await heard(a)
            assert [updated(ONE)] == await heard(b)
            assert [updated(TWO)] == await heard(c)
            await there.layer.sessions.delete(client.session_id)
            assert [] == await a.messages()
            await publish(updated(ONE))
            await publish(END)
            assert [updated(ONE)] == await heard(b)
            assert [] == await heard(c)
        assert [other.session_id] == await here.backend.subscriptions.subscribers(ONE, "", 10)


async def test_f80_what_was_unsubscribed_is_not_heard_any_more(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        await subscribe(client, there, TWO)
        async with standing(client, there) as stream:
            await publish(updated(ONE))
            await publish(END)
            assert [updated(ONE)] == await heard(stream)
            await unsubscribe(client, here, ONE)
            await publish(updated(ONE))
            await publish(updated(TWO))
            await publish(END)
            assert [updated(TWO)] == await heard(stream)


async def test_f80_to_unsubscribe_from_what_one_never_subscribed_to_is_told_to_the_server_and_not_to_the_client(
    here, there, client
):
    with anyio.fail_after(10):
        await unsubscribe(client, here, ONE)
        with pytest.raises(NotSubscribedError, match=ONE):
            await here.layer.sessions.unsubscribe(client.session_id, ONE)
        await subscribe(client, here, ONE)
        await there.layer.sessions.unsubscribe(client.session_id, ONE)
        with pytest.raises(NotSubscribedError):
            await here.layer.sessions.unsubscribe(client.session_id, ONE)
        with pytest.raises(SessionNotFoundError):
            await here.layer.sessions.unsubscribe("nobody", ONE)


async def test_f80_what_the_servers_own_handler_refuses_is_not_subscribed(database_url):
    async with replica(database_url, make=make_refusing_server) as here:
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            answer = await ask(client, here, "resources/subscribe", {"uri": ONE})
        assert "not that one" == answer["error"]["message"]
        assert [] == await here.layer.sessions.subscriptions(client.session_id)


@pytest.mark.parametrize("uri", ["test://" + "x" * 1500, "test://\x00"])
async def test_f80_what_no_store_can_keep_is_refused_as_such(here, client, uri):
    with anyio.fail_after(5):
        for method in ("resources/subscribe", "resources/unsubscribe"):
            assert -32602 == (await ask(client, here, method, {"uri": uri}))["error"]["code"]
        for verb in (here.layer.sessions.subscribe, here.layer.sessions.unsubscribe):
            with pytest.raises((LimitExceededError, UnstorableTextError)):
                await verb(client.session_id, uri)


async def test_f80_the_server_itself_subscribes_a_session(here, there, client):
    publish = there.layer.broadcaster.publish
    sessions = here.layer.sessions
    with anyio.fail_after(10):
        async with standing(client, there) as stream:
            await sessions.subscribe(client.session_id, TWO)
            await sessions.subscribe(client.session_id, ONE)
            await sessions.subscribe(client.session_id, ONE)
            assert [ONE, TWO] == await there.layer.sessions.subscriptions(client.session_id)
            await publish(updated(ONE))
            await publish(END)
            assert [updated(ONE)] == await heard(stream)
        with pytest.raises(SessionNotFoundError):
            await sessions.subscribe("nobody", ONE)
        with pytest.raises(UnstorableTextError):
            await sessions.subscribe(client.session_id, "test://\x00")
        assert [] == await sessions.subscriptions("nobody")


async def test_f80_the_server_has_the_same_limit(database_url):
    async with replica(database_url, max_subscriptions_per_session=1) as here:
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            await here.layer.sessions.subscribe(client.session_id, ONE)
            with pytest.raises(LimitExceededError):
                await here.layer.sessions.subscribe(client.session_id, TWO)


# Subscriptions and updates at once: what was answered before an update was published counts for it.


async def test_f80_a_subscription_that_was_answered_before_counts_though_the_holder_reads_both_at_once(
    here, there, yonder, client
):
    with anyio.fail_after(10):
        async with standing(client, yonder) as stream:
            # The stream knows what the session has subscribed to: nothing.
            await here.layer.broadcaster.publish(updated(ONE))
            await here.layer.broadcaster.publish(END)
            assert [] == await heard(stream)
            gate = yonder.backend.mailbox.before["news"]
            gate.close()
            await subscribe(client, here, ONE)
            await there.layer.broadcaster.publish(updated(ONE))
            await there.layer.broadcaster.publish(END)
            await gate.reached.wait()
            gate.open()
            assert [updated(ONE)] == await heard(stream)


async def test_f80_an_unsubscription_that_was_answered_before_counts_though_the_holder_reads_both_at_once(
    here, there, yonder, client
):
    with anyio.fail_after(10):
        await subscribe(client, there, ONE)
        async with standing(client, yonder) as stream:
            await here.layer.broadcaster.publish(updated(ONE))
            await here.layer.broadcaster.publish(END)
            assert [updated(ONE)] == await heard(stream)
            gate = yonder.backend.mailbox.before["news"]
            gate.close()
            await unsubscribe(client, here, ONE)
            await there.layer.broadcaster.publish(updated(ONE))
            await there.layer.broadcaster.publish(END)
            await gate.reached.wait()
            gate.open()
            assert [] == await heard(stream)


@pytest.mark.parametrize("side", ["before", "after"])
async def test_f80_a_change_while_the_stream_reads_its_subscriptions_counts_for_the_updates_after_it(
    here, there, yonder, client, side
):
    """The read began before the change (`after` the gate: it even ended before), so its answer is not believed."""
    publish = there.layer.broadcaster.publish
    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        async with standing(client, yonder) as stream:
            gate = getattr(yonder.backend.subscriptions, side)["uris"]
            gate.close()
            await publish(updated("test://other"))
            await gate.reached.wait()
            await unsubscribe(client, here, ONE)
            await subscribe(client, here, TWO)
            await publish(updated(ONE))
            await publish(updated(TWO))
            await publish(END)
            await until(lambda: not yonder.parts.post_office.behind)
            gate.open()
            assert [updated(TWO)] == await heard(stream)


async def test_f80_a_subscription_made_while_the_stream_catches_up_counts(here, there, yonder, client):
    publish = there.layer.broadcaster.publish
    with anyio.fail_after(10):
        gate = yonder.backend.news_log.after["missed"]
        gate.close()
        async with client.get(yonder) as stream:
            await gate.reached.wait()
            # The log was read, and nothing was subscribed.
            await subscribe(client, here, ONE)
            await publish(updated(ONE))
            await publish(END)
            gate.open()
            assert [updated(ONE)] == await heard(stream)


async def test_f80_a_subscription_that_commits_while_the_log_is_about_to_be_read_counts(here, there, yonder, client):
    publish = there.layer.broadcaster.publish
    with anyio.fail_after(10):
        gate = yonder.backend.news_log.before["missed"]
        gate.close()
        async with client.get(yonder) as stream:
            await gate.reached.wait()
            await subscribe(client, here, ONE)
            await publish(updated(ONE))
            await publish(END)
            await until(lambda: not yonder.parts.post_office.behind)
            gate.open()
            assert [updated(ONE)] == await heard(stream)


async def test_f80_subscriptions_are_read_once_and_again_after_a_gap_of_the_listener(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        async with standing(client, there) as stream:
            for _ in range(3):
                await publish(updated(ONE))
                await publish(END)
                assert [updated(ONE)] == await heard(stream)
            assert 1 == there.backend.subscriptions.calls["uris"]
            there.layer._wiring.after_a_gap()
            await publish(updated(ONE))
            await publish(END)
            assert [updated(ONE)] == await heard(stream)
            assert 2 == there.backend.subscriptions.calls["uris"]


async def test_f80_a_flood_about_other_resources_pushes_nothing_out(database_url, here):
    async with replica(database_url, outbound_frames=3) as there:
        publish = here.layer.broadcaster.publish
        with anyio.fail_after(20):
            client = await Client().initialize(here)
            await subscribe(client, here, ONE)
            async with standing(client, there) as stream:
                await publish(updated(ONE))
                await publish(END)
                assert [updated(ONE)] == await heard(stream)
                reads = there.backend.news_log.calls["missed"]
                stream.stop_reading()
                await publish(numbered(1))
                for number in range(20):
                    await publish(updated(f"test://other/{number}"))
                await publish(numbered(2))
                await publish(END)
                await until(lambda: not there.parts.post_office.behind)
                await settle()
                stream.read_on()
                assert [numbered(1), numbered(2)] == await heard(stream)
                assert reads == there.backend.news_log.calls["missed"]


async def test_f80_subscriptions_survive_a_rotation_of_the_session(here, there, client):
    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        rotated = await there.layer.sessions.rotate(client.session_id)
        client.session_id = rotated.id
        async with standing(client, there) as stream:
            await here.layer.broadcaster.publish(updated(ONE))
            await here.layer.broadcaster.publish(END)
            assert [updated(ONE)] == await heard(stream)


# What a replica remembers of changes


def test_f80_a_change_is_not_forgotten_by_those_who_looked_before_it(monkeypatch):
    monkeypatch.setattr(levels, "_MOST", 3)
    changes = SessionChanges()
    looked = changes.latest("quiet")
    changes.note("quiet")
    for number in range(10):
        changes.note(f"busy {number}")
    assert looked != changes.latest("quiet")


def test_f80_the_number_of_a_session_only_grows(monkeypatch):
    monkeypatch.setattr(levels, "_MOST", 3)
    changes, before = SessionChanges(), 0
    for number in range(20):
        changes.note("session" if number % 3 else f"other {number}")
        if number % 7 == 0:
            changes.note_all()
        assert before <= changes.latest("session")
        before = changes.latest("session")
