"""F75: where LISTEN is impossible a replica polls, says so in its health, and goes back when it is possible again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from mcpsession import ConfigurationError, SessionLayer
from mcpsession.errors import ListenerError, StoreError, StoreUnavailableError
from mcpsession.model import Heard, Mail, News
from mcpsession.records import Admission, Session
from mcpsession.sdk.parts import Parts
from tests.postgres.ears import Ear, ListenerRole, cut_listeners, free_port

# What a poll may take: its second, its jitter, and two statements on a busy machine.
POLLED = 2.0
# And a bell: some milliseconds, on a machine that is not busy.
HEARD = 1.0


class Replica:
    """A running layer, and what reached it."""

    def __init__(self, layer: SessionLayer, parts: Parts, ear: Ear) -> None:
        self.layer = layer
        self.parts = parts
        self.ear = ear
        self.reached: list[str] = []
        self._changed = anyio.Event()
        layer.broadcaster.listen(self._hear)
        parts.post_office.on("answer", lambda mail: self._note(mail.body))

    @property
    def id(self) -> str:
        return self.parts.heartbeat.replica_id

    @property
    def status(self) -> tuple[str, str]:
        health = self.layer.health()
        return health.status, health.listener

    def _hear(self, heard: Heard | None) -> None:
        self._note(heard.news.method if heard else "everything")

    def _note(self, what: str) -> None:
        self.reached.append(what)
        self._changed.set()

    async def till_reached(self, *whats: str) -> float:
        """Wait until all of these are here; returns how long that took."""
        began = time.monotonic()
        while not set(whats) <= set(self.reached):
            self._changed = anyio.Event()
            await self._changed.wait()
        return time.monotonic() - began


@asynccontextmanager
async def replica(url: str, **settings: Any) -> AsyncIterator[Replica]:
    layer = SessionLayer.from_url(url, namespace="degraded", **settings)
    ear = Ear()
    layer.on_listener(ear.state)
    async with layer.running() as parts:
        yield Replica(layer, parts, ear)


async def mail_and_news(sender: Replica, receiver: Replica, name: str) -> float:
    """Send one of each, and return how long the later one took."""
    assert await sender.parts.post_office.send(Mail("answer", sender.id, receiver.id, "session", f"mail {name}"))
    await sender.layer.broadcaster.publish(News(f"notifications/{name}"))
    return await receiver.till_reached(f"mail {name}", f"notifications/{name}")


# ---- Required -----------------------------------------------------------------------------------------------------


async def test_f75_a_pooler_in_transaction_mode_is_refused_with_both_remedies(pooler_url: str) -> None:
    with pytest.raises(ListenerError, match=r"MCPSESSION_LISTEN_URL.*MCPSESSION_LISTENER=optional"):
        async with replica(pooler_url, prepared_statements=False, echo_timeout=0.5):
            pass


async def test_f75_a_refused_port_is_refused_with_its_name(database_url: str) -> None:
    port = free_port()
    with pytest.raises(StoreUnavailableError, match=rf"127\.0\.0\.1:{port}.*check the host and port"):
        async with replica(database_url, listen_url=f"postgresql://user@127.0.0.1:{port}/x"):
            pass


async def test_f75_a_role_that_may_not_log_in_is_refused(database_url: str, listener_role: ListenerRole) -> None:
    await listener_role.lock_out()
    with pytest.raises(StoreError, match="not permitted to log in"):
        async with replica(database_url, listen_url=listener_role.url):
            pass


@pytest.mark.parametrize("listener", ["required", "optional"])
async def test_f75_a_listen_url_that_cannot_be_parsed_is_refused_in_any_case(database_url: str, listener: str) -> None:
    with pytest.raises(ConfigurationError, match="listen_url"):
        async with replica(database_url, listen_url="postgresql://user@host:no-port/x", listener=listener):
            pass


async def test_f75_a_layer_that_ran_is_refused_as_well_when_it_starts_again(
    database_url: str, listener_role: ListenerRole
) -> None:
    """What made it patient was that it ran."""
    layer = SessionLayer.from_url(database_url, namespace="degraded", listen_url=listener_role.url)
    async with layer:
        pass
    await listener_role.lock_out()
    with pytest.raises(StoreError, match="not permitted to log in"):
        async with layer:
            pass
    assert "off" == layer.health().listener


# ---- Optional, and impossible from the start -----------------------------------------------------------------------


@pytest.fixture(params=["pooler", "role", "port"])
def deaf(request: pytest.FixtureRequest, database_url: str) -> Callable[[], Any]:
    """Starts a replica that cannot listen, each time for another reason."""
    ways: dict[str, dict[str, Any]] = {
        "pooler": {"prepared_statements": False, "echo_timeout": 0.3},
        "role": {},
        "port": {"listen_url": f"postgresql://user@127.0.0.1:{free_port()}/x"},
    }
    url, settings = database_url, ways[request.param]
    if request.param == "pooler":
        url = request.getfixturevalue("pooler_url")
    if request.param == "role":
        settings = {"listen_url": "postgresql://nobody-of-that-name:x@" + database_url.rpartition("@")[2]}
    return lambda **more: replica(url, listener="optional", **settings, **more)


async def test_f75_a_replica_that_cannot_listen_starts_polls_and_says_so(
    deaf: Callable[..., Any], database_url: str
) -> None:
    with anyio.fail_after(20):
        async with deaf() as here, replica(database_url) as there:
            assert ("degraded", "failed") == here.status
            assert here.layer.health().ready
            [problem] = here.layer.health().problems
            assert problem.startswith("no bells have been heard for ")
            assert "polled every 1 s" in problem
            assert "MCPSESSION_LISTEN_URL" in problem
            assert ("ok", "connected") == there.status

            assert await mail_and_news(there, here, "to-the-deaf") < POLLED
            assert await mail_and_news(here, here, "of-its-own") < POLLED
            # Deaf is not dumb.
            assert await mail_and_news(here, there, "from-the-deaf") < HEARD
            await here.ear.till(lambda: here.ear.states.count("failed") >= 3)

    assert {"failed"} == set(here.ear.states)


async def test_f75_a_replica_that_beats_rarely_polls_all_the_same(deaf: Callable[..., Any], database_url: str) -> None:
    with anyio.fail_after(20):
        async with deaf(beat=30.0, dead_after=90.0) as here, replica(database_url) as there:
            assert await mail_and_news(there, here, "first") < POLLED
            assert await mail_and_news(there, here, "second") < POLLED


async def test_f75_a_bell_that_is_lost_delays_nothing_for_longer_than_a_poll(database_url: str) -> None:
    """Though it hears, and though it beats rarely: the ringer may have died before it rang."""
    with anyio.fail_after(10):
        async with replica(database_url, beat=30.0, dead_after=90.0) as here:
            await here.parts.post_office.run_once()
            assert await here.parts.mailbox.send(Mail("answer", "dead", here.id, "session", "unrung"))
            assert await here.till_reached("unrung") < POLLED


async def test_f75_one_that_could_not_listen_at_first_is_connected_once_it_can(
    database_url: str, listener_role: ListenerRole
) -> None:
    await listener_role.lock_out()
    with anyio.fail_after(20):
        async with (
            replica(database_url, listen_url=listener_role.url, listener="optional") as here,
            replica(database_url) as there,
        ):
            assert ("degraded", "failed") == here.status
            await listener_role.let_in()
            await here.ear.till(lambda: "connected" in here.ear.states)

            assert ("ok", "connected", []) == (*here.status, here.layer.health().problems)
            assert await mail_and_news(there, here, "news") < HEARD


# ---- Impossible for a while ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["required", "optional"])
async def test_f75_a_replica_whose_listener_is_locked_out_polls_and_goes_back(
    database_url: str, listener_role: ListenerRole, listener: str
) -> None:
    """`required` is a condition for the start; a replica that runs is of more use than none."""
    with anyio.fail_after(30):
        async with (
            replica(database_url, listen_url=listener_role.url, listener=listener) as here,
            replica(database_url) as there,
        ):
            assert ("ok", "connected") == here.status
            assert await mail_and_news(there, here, "before") < HEARD

            await listener_role.lock_out()
            await here.ear.till(lambda: "failed" in here.ear.states)
            assert ("degraded", "failed") == here.status
            took = [await mail_and_news(there, here, f"while-deaf-{n}") for n in range(3)]
            assert max(took) < POLLED
            # Nothing is believed that a bell would have taken back.
            lasting = Session("s" * 43, initialized=True)
            [session] = await here.parts.sessions.create([lasting], admission=Admission())
            assert await here.parts.cache.load(session.id) is not None
            assert here.parts.cache.peek(session.id) is None

            await listener_role.let_in()
            await here.ear.till(lambda: "reconnected" in here.ear.states)
            assert ("ok", "reconnected", []) == (*here.status, here.layer.health().problems)
            assert await mail_and_news(there, here, "after") < HEARD

    news = [what for what in here.reached if what.startswith("notifications/")]
    assert ["before", *[f"while-deaf-{n}" for n in range(3)], "after"] == [
        what.removeprefix("notifications/") for what in news
    ]


async def test_f75_the_end_of_a_session_waits_for_deaf_replicas_no_longer_than_a_lease(
    database_url: str, listener_role: ListenerRole
) -> None:
    """Whichever of the two is deaf: the one that ends it, or the one that is to apply it."""
    with anyio.fail_after(30):
        async with (
            replica(database_url, listen_url=listener_role.url) as here,
            replica(database_url) as there,
        ):
            first = await here.layer.sessions.create()
            second = await here.layer.sessions.create()
            await listener_role.lock_out()
            await here.ear.till(lambda: "failed" in here.ear.states)
            for ending, other, session in ((here, there, first), (there, here, second)):
                began = time.monotonic()
                await ending.layer.sessions.terminate(session.id)
                took = time.monotonic() - began

                assert took < here.layer.settings.cache_lease + 1.0
                assert await other.parts.cache.load(session.id) is None
            await listener_role.let_in()


async def test_f75_a_cut_of_a_moment_polls_nothing_and_degrades_nothing_for_long(database_url: str) -> None:
    with anyio.fail_after(10):
        async with replica(database_url) as here:
            await cut_listeners(database_url)
            await here.ear.till(lambda: "reconnected" in here.ear.states)
            assert ("ok", "reconnected") == here.status
            assert await mail_and_news(here, here, "news") < HEARD
