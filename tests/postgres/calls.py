"""Every method of the Postgres side, called with realistic arguments, and the statements that this runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from mcpsession.errors import LimitExceededError
from mcpsession.event_records import Entry
from mcpsession.model import Batch, Mail, NewEvent, OpenedStream, Replica
from mcpsession.news_contracts import ControlPlace
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Admission, Change, Filter, Session
from mcpsession.settings import Settings
from tests.postgres.explained import PATIENCE, Explained, Explainer
from tests.postgres.million import BIG_OWNER, HOT_URI, LIVE, NAMESPACE, live, session_id, some_live
from tests.postgres.stores import appended, opened

ME = "me"
MANY = 1000
"""As many as one statement is given at most: `create_many`, `delete_many`, a batch of the reaper."""
TOUCHES = 500


async def explained_calls(url: str) -> Sequence[Explained]:
    """Use each part of a backend as the layer does, and return what it asked of the database."""
    explainer = Explainer()
    # Not a number that would pass for how many rows a statement is asked for.
    settings = Settings(namespace=NAMESPACE, statement_timeout=PATIENCE, max_events=MANY + 1)
    backend = PostgresBackend(url, None, settings)
    options = backend._database.address.options
    options["connection_class"] = explainer.connection_class(options["connection_class"])
    async with backend.running(), backend.registry() as registry:
        await registry.join(Replica(ME))
        await _live(backend)
        await _look(backend)
        await _talk(backend)
        await _log(backend)
        await _request(backend)
        await _hold(backend)
        await _correspond(backend)
        await _control(backend)
        await _reap(backend)
        position = await backend.mailbox.position()
        await registry.beat(ME, position)
        await registry.declare_dead("replica-4", 0)
        await registry.leave(ME)
    return explainer.explained


async def _live(backend: PostgresBackend) -> None:
    sessions, initialization, me = backend.sessions, backend.initialization, ME
    a, b, c, d, e = live(100_005, 100_015, 100_025, 100_035, 100_045)
    free = Admission()
    # As many as are counted, whether the limit is reached or not.
    with suppress(LimitExceededError):
        await sessions.create([Session("late", ttl=3600.0)], admission=Admission(max_sessions=MANY))
    new = Session("new", owner="user-1", ttl=3600.0)
    finished = OpenedStream("new", "init", ("0",), [NewEvent("{}")], finished=True)
    await sessions.create([new], finished, admission=Admission(max_per_owner=100))
    await sessions.create([Session(f"new-{n}", ttl=3600.0) for n in range(MANY)], admission=free)
    # The id of a session that expired, which is free.
    await sessions.create([Session(session_id(32), ttl=3600.0)], admission=free)
    await sessions.get(a)
    await sessions.touch([a])
    await sessions.touch(some_live(TOUCHES), owner=None)
    await sessions.change(a, Change(ttl=60.0, log_level="error"), sender=me)
    [(version, state)] = [await sessions.load_state(a) or (0, "")]
    await sessions.save_state(a, version, state)
    await sessions.rotate(b, "rotated", owner=None, new_owner="user-2", sender=me)
    await sessions.end([c], "terminated", owner=None, sender=me, claim=False)
    await sessions.end(some_live(MANY), "idle", idle_for=1800.0, sender=me, claim=True)
    await sessions.create([Session("raw", ttl=3600.0)], admission=free)
    for claim in ("given up", "kept"):
        await initialization.claim("raw", claim, 30.0)
        await initialization.release("raw", "given up")
    await initialization.complete("raw", "kept", "2025-11-25", "{}")
    await initialization.mark_initialized("raw")
    for uri in (HOT_URI, "file:///new"):
        await backend.subscriptions.subscribe(d, uri, 1000, sender=me)
    await backend.subscriptions.unsubscribe(d, "file:///new", sender=me)
    await backend.subscriptions.uris(e)
    await backend.subscriptions.subscribers(HOT_URI, "", MANY)
    await backend.subscriptions.subscribers(HOT_URI, session_id(77), MANY)
    await backend.subscriptions.subscribers("file:///7", "", MANY)


async def _look(backend: PostgresBackend) -> None:
    directory = backend.directory
    await directory.records(live(200_005), include_dead=True)
    await directory.records(some_live(MANY), owner="user-1")
    middle = session_id(7)
    for owner in (None, BIG_OWNER, "user-77", "nobody"):
        for after in ("", middle):
            await directory.page(Filter(owner=owner), after, MANY)
    await directory.page(Filter(transport="streamable-http", initialized=True, idle_for=600.0), middle, MANY)
    await directory.count(Filter())
    await directory.count(Filter(owner="user-77"))
    await directory.stats()


async def _talk(backend: PostgresBackend) -> None:
    log = backend.log
    [a] = live(100_055)
    batch = Batch(
        opened=[part for id_ in some_live(200)[100:] for part in opened(id_, f"o-{id_}", "{}").opened],
        appended=[part for id_ in some_live(200)[100:] for part in appended(id_, f"o-{id_}", 1, "{}", "{}").appended],
    )
    await log.write(Batch(opened=batch.opened), producer=LIVE)
    await log.write(Batch(appended=batch.appended), producer=LIVE)
    await log.write(opened(a, "one", "{}", finished=True), producer=LIVE)
    await log.landed(a, "one", 1, producer=LIVE)
    await log.append_standalone([(id_, NewEvent("{}")) for id_ in some_live(100)])
    await log.attach(a, "one", ME)
    await log.read(a, "one", 0, 100)
    await log.take_over(session_id(10_007), "stream-10007", 5, ["{}"], by=ME)
    await log.orphans(MANY)
    await log.unfinished(LIVE)


async def _log(backend: PostgresBackend) -> None:
    events = backend.events
    some, full, heavy = live(100_105, 100_085, 100_095)
    entries = [Entry("{}", id=f"event-{n}") for n in range(2, 9)]
    for session, stream in ((some, "new"), (some, "log"), (full, "log"), (heavy, "log")):
        await events.append(session, stream, entries)
        await events.append(session, stream, [Entry("{}")])
    for after in (0, 500, "event-500", "nobody's"):
        assert await events.read(full, "log", after, 100) is not None
    assert await events.follow(full, "log", LIVE)
    await events.unfollow(full, "log", LIVE)
    await events.stats()
    # A call that says more than its stream holds, and a client's stream that is full.
    [talker] = live(100_115)
    await backend.log.write(opened(talker, "talk", *["{}"] * 20), producer=LIVE)
    [talk] = appended(talker, "talk", 20, "{}").appended
    await backend.log.write(Batch(appended=[talk._replace(trimmed=10)]), producer=LIVE)
    await backend.log.append_standalone([(full, NewEvent("{}"))])


async def _request(backend: PostgresBackend) -> None:
    requests = backend.requests
    [a] = live(100_125)
    assert await requests.track(a, "1", "work", 60, by=LIVE) is not None
    assert await requests.find(a, "1") is not None
    # Refused: it looks whether what is in its way is over.
    await backend.log.write(opened(a, "refused", "{}", request="1"), producer=LIVE)
    assert await requests.complete(a, "1") is not None
    for after in (("", ""), (session_id(7), "1")):
        await requests.running(after=after, limit=100)
        await requests.running(session_id(1015), after=after, limit=100)
    assert await requests.sweep(MANY)


async def _hold(backend: PostgresBackend) -> None:
    holds = backend.holds
    [a] = live(100_065)
    hold = await holds.take(a, LIVE)
    assert hold is not None
    await holds.settle(a, hold.epoch, force=False)
    await holds.holder(a)
    await holds.changed([(a, hold.epoch, 1)])
    await holds.changed([(one, 1, 0) for one in some_live(MANY)])
    await holds.save(a, hold.epoch, 1, "100:100:@1")
    await holds.release(a, hold.epoch, 1, "100:100:@1")


async def _correspond(backend: PostgresBackend) -> None:
    mailbox = backend.mailbox
    position = await mailbox.position()
    await mailbox.send(Mail("answer", ME, LIVE, session_id(5), "{}"))
    await mailbox.broadcast([Mail("news", ME, body="{}")] * 100)
    news_log, [to_one] = backend.news_log, live(100_075)
    for number in range(50):
        about = {"uri": f"file:///{number}", "newest_of": f"updated {number % 9}"}
        await news_log.publish(Mail("news", ME, body="{}", topic="topic" if number % 5 == 0 else None), **about)
    await news_log.publish(Mail("news", ME, session_id=to_one, body="{}"))
    await mailbox.news(position)
    for newest in (False, True):
        await news_log.missed(position, topic="topic", newest=newest)
        await news_log.missed(position, session_id=to_one, newest=newest, subscribed=True)
    inbox = await mailbox.inbox(LIVE)
    assert inbox
    await mailbox.delete([mail.id for mail in inbox])


async def _control(backend: PostgresBackend) -> None:
    rows = backend.control
    for key in ("new", "key-99999"):
        await rows.append("method-19", key, "{}", sender=ME)
    assert await rows.forget("method-18", "key-99998")
    for newest in (False, True):
        for version in (0, 50_000, 99_000):
            page = await rows.read(ControlPlace(version), 100, newest=newest)
            assert page is not None
            assert page.more
            await rows.read(page.place, 100, newest=newest)


async def _reap(backend: PostgresBackend) -> None:
    reaping = backend.reaping
    await reaping.reap(MANY, handled=True)
    claimed = await reaping.claim(100, by=ME, busy=["busy"])
    assert claimed
    await reaping.remove([(session.id, session.incarnation) for session in claimed], by=ME)
    # What the dead had claimed comes first, until it is used up.
    busy: list[str] = []
    while claimed and len(busy) < 700:
        claimed = await reaping.claim(100, by=ME, busy=busy)
        busy += [session.id for session in claimed]
    await reaping.claim(100, by=ME, busy=busy, only=[session_id(282)])
    await reaping.idle(1800.0, session_id(7), MANY)
    await reaping.reap(MANY)
