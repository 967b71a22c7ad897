"""NewsLog: news is broadcast mail that says who it is for, and whoever was away asks for what it missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import ConfigurationError, StoreError
from mcpsession.model import Mail, MailKind
from mcpsession.news_contracts import Reach
from tests.contract.conftest import Join
from tests.contract.given import a_session, end, expire, given, mail_since, until


async def publish(
    backend: Backend,
    body: str = "{}",
    session_id: str | None = None,
    topic: str | None = None,
    *,
    sender: str = "a",
    **options: Any,
) -> Reach | None:
    mail = Mail("news", sender, session_id=session_id, body=body, topic=topic)
    return await backend.news_log.publish(mail, **options)


async def missed(backend: Backend, position: str, **reader: Any) -> list[str]:
    """The bodies of all the news past a position that a reader gets."""
    page = await backend.news_log.missed(position, **reader)
    assert page is not None
    assert not page.more
    return [mail.body for mail in page.mails]


# ---- To whoever reads on -------------------------------------------------------------------------------------------


async def test_f71_news_is_broadcast_mail_that_arrives_as_it_was_published(backend: Backend) -> None:
    session = await a_session(backend)
    position = await backend.mailbox.position()

    await publish(backend, '{"method":"ü"}', "session", "topic", uri="file:///a", newest_of="a")

    [mail] = await mail_since(backend, position)
    assert Mail("news", "a", None, "session", '{"method":"ü"}', mail.id, mail.xid, "topic", session.incarnation) == mail
    assert mail.id > 0
    assert mail.xid > 0
    page = await backend.news_log.missed(position, session_id="session", topic="topic")
    assert page is not None
    assert [mail] == list(page.mails)


async def test_f71_the_order_of_a_publisher_is_kept(backend: Backend) -> None:
    position = await backend.mailbox.position()

    for number in range(30):
        await publish(backend, f"{number}")

    expected = [f"{number}" for number in range(30)]
    assert expected == [mail.body for mail in await mail_since(backend, position)]
    assert expected == await missed(backend, position)


async def test_f71_what_was_published_meanwhile_comes_once(backend: Backend) -> None:
    position = await backend.mailbox.position()
    await publish(backend, "1")
    first = await backend.news_log.missed(position)
    await publish(backend, "2")

    assert first is not None
    second = await backend.news_log.missed(first.position)
    assert second is not None
    assert [["1"], ["2"]] == [[mail.body for mail in page.mails] for page in (first, second)]
    assert [] == await missed(backend, second.position)
    assert ["1", "2"] == await missed(backend, position)


@pytest.mark.parametrize("size", [8_000, 1024 * 1024, 4 * 1024 * 1024])
async def test_f72_news_that_no_bell_could_carry_arrives(backend: Backend, size: int) -> None:
    position = await backend.mailbox.position()
    body = json.dumps({"method": "m", "params": {"text": "x" * size}})

    await publish(backend, body)

    assert [body] == [mail.body for mail in await mail_since(backend, position)]
    assert [body] == await missed(backend, position)


async def test_namespaces_never_hear_each_others_news(backend: Backend, neighbour: Backend) -> None:
    for each in (backend, neighbour):
        await a_session(each)
    ours, theirs = await backend.mailbox.position(), await neighbour.mailbox.position()

    await publish(backend, "to all")
    await publish(backend, "to one", "session")

    assert [] == await missed(neighbour, theirs, session_id="session")
    assert ["to all", "to one"] == await missed(backend, ours, session_id="session")


@pytest.mark.parametrize("unstorable", ["\x00", "\ud800"], ids=["NUL", "a lone surrogate"])
@pytest.mark.parametrize("where", ["body", "topic", "uri", "newest_of"])
async def test_news_that_cannot_be_stored_is_refused(backend: Backend, where: str, unstorable: str) -> None:
    position = await backend.mailbox.position()

    with pytest.raises(StoreError):
        await publish(backend, **{where: unstorable})

    assert [] == await mail_since(backend, position)


async def test_a_connection_that_cannot_be_used_is_refused(backend: Backend) -> None:
    """One that can is the business of tests/postgres/test_publishing_in_a_transaction.py."""
    position = await backend.mailbox.position()

    for connection in (object(), "postgresql://user:secret@host/db", 0):
        with pytest.raises(ConfigurationError, match="conn='builtins") as refused:
            await publish(backend, connection=connection)
        assert "secret" not in str(refused.value)

    assert [] == await mail_since(backend, position)


# ---- To one session ------------------------------------------------------------------------------------------------


async def test_f78_news_for_a_session_tells_who_holds_its_stream(backend: Backend, join: Join) -> None:
    await join("a", "b")
    await a_session(backend)
    assert Reach(None) == await publish(backend, session_id="session")

    await backend.holds.take("session", "b")
    assert Reach("b") == await publish(backend, session_id="session")

    await backend.holds.take("session", "a")
    assert Reach("a") == await publish(backend, session_id="session")
    assert Reach(None) == await publish(backend)


async def test_f78_who_has_let_go_holds_nothing(backend: Backend, join: Join) -> None:
    await join("b")
    await a_session(backend)
    hold = await backend.holds.take("session", "b")
    assert hold is not None
    await backend.holds.release("session", hold.epoch, 0, hold.delivered_news)

    assert Reach(None) == await publish(backend, session_id="session")


async def test_f78_the_dead_hold_nothing(backend: Backend, join: Join, registry: ReplicaRegistry) -> None:
    await join("b")
    await a_session(backend)
    await backend.holds.take("session", "b")
    await registry.leave("b")

    assert Reach(None) == await publish(backend, session_id="session")


async def test_f78_news_without_a_stream_is_kept_for_the_next(backend: Backend) -> None:
    await a_session(backend)
    hold = await backend.holds.take("session", "nobody")
    assert hold is not None

    await publish(backend, "kept", "session")

    assert ["kept"] == await missed(backend, hold.delivered_news, session_id="session")


async def test_f78_news_for_a_session_that_does_not_live_is_not_recorded(backend: Backend) -> None:
    for name in ("deleted", "terminated"):
        await a_session(backend, name)
        await end(backend, name, reason="terminated" if name == "terminated" else "deleted")
    await expire(backend, "expired")
    position = await backend.mailbox.position()

    for name in ("deleted", "terminated", "expired", "unknown", ""):
        assert await publish(backend, session_id=name) is None

    assert [] == await mail_since(backend, position)


async def test_f95_news_that_waits_goes_with_a_session_to_its_new_id(backend: Backend) -> None:
    await a_session(backend)
    await a_session(backend, "other")
    position = await backend.mailbox.position()
    await publish(backend, "before", "session")
    await publish(backend, "another's", "other")
    rotated = await backend.sessions.rotate("session", "new", owner=None, new_owner=None, sender="a")
    assert rotated.successor is not None

    assert await publish(backend, session_id="session") is None
    await publish(backend, "after", "new")

    incarnation = rotated.successor.incarnation
    assert ["before", "after"] == await missed(backend, position, session_id="new", incarnation=incarnation)
    assert ["another's"] == await missed(backend, position, session_id="other")


async def test_f78_a_session_does_not_get_the_news_of_an_earlier_one_with_its_id(backend: Backend) -> None:
    first = await a_session(backend)
    position = await backend.mailbox.position()
    await publish(backend, "the first one's", "session")
    await end(backend)
    second = await a_session(backend)
    await publish(backend, "the second one's", "session")
    await publish(backend, "for all")

    ours = {"session_id": "session", "incarnation": second.incarnation}
    assert ["the second one's", "for all"] == await missed(backend, position, **ours)
    assert ["the second one's", "for all"] == await missed(backend, position, newest=True, **ours)
    theirs = {"session_id": "session", "incarnation": first.incarnation}
    assert ["the first one's", "for all"] == await missed(backend, position, **theirs)


@pytest.mark.parametrize("newest", [True, False])
async def test_f68_what_a_reader_has_is_left_out_and_hides_nothing(backend: Backend, newest: bool) -> None:
    position = await backend.mailbox.position()
    for body in ("1", "2"):
        await publish(backend, body, newest_of="kind")
    floor = await backend.mailbox.position()
    for body in ("3", "4"):
        await publish(backend, body, newest_of="kind")
    *_, fourth = await mail_since(backend, position)

    assert ["3"] == await missed(backend, position, newest=newest, heard=[fourth.id], floor=floor)
    both = ["1", "2", "3"] if not newest else ["3"]
    assert both == await missed(backend, position, newest=newest, heard=[fourth.id])


# ---- What was missed -----------------------------------------------------------------------------------------------


async def test_a_reader_gets_what_is_for_all_for_its_session_and_for_its_topic(backend: Backend) -> None:
    for name in ("session", "other"):
        await a_session(backend, name)
    position = await backend.mailbox.position()
    for session_id in (None, "session", "other"):
        for topic in (None, "topic", "else"):
            await publish(backend, f"{session_id} {topic}", session_id, topic)

    assert ["None None"] == await missed(backend, position)
    assert ["None None", "None topic"] == await missed(backend, position, topic="topic")
    assert ["None None", "session None"] == await missed(backend, position, session_id="session")
    assert ["None None", "None topic", "session None", "session topic"] == await missed(
        backend, position, session_id="session", topic="topic"
    )


async def test_a_reader_of_news_gets_no_other_mail(backend: Backend, join: Join) -> None:
    await join("b")
    position = await backend.mailbox.position()
    kinds: tuple[MailKind, ...] = ("changed", "news", "ended", "cancel", "control", "news")
    await backend.mailbox.broadcast([Mail(kind, "a", body=f"{place}") for place, kind in enumerate(kinds)])
    await backend.mailbox.send(Mail("news", "a", "b", body="private"))

    assert ["1", "5"] == await missed(backend, position)


async def test_who_was_away_gets_the_newest_of_each_in_the_order_of_their_last(backend: Backend) -> None:
    position = await backend.mailbox.position()
    for number, newest_of in enumerate(["tools", "prompts", None, "tools", "a", None, "tools", "b", "a"]):
        await publish(backend, f"{number} {newest_of}", newest_of=newest_of)

    assert ["1 prompts", "2 None", "5 None", "6 tools", "7 b", "8 a"] == await missed(backend, position, newest=True)
    assert 9 == len(await missed(backend, position))


async def test_the_newest_is_the_newest_of_what_the_reader_may_have(backend: Backend) -> None:
    await a_session(backend)
    position = await backend.mailbox.position()
    await publish(backend, "to all", newest_of="tools")
    await publish(backend, "to one", "session", newest_of="tools")
    await publish(backend, "to a topic", topic="topic", newest_of="tools")

    assert ["to all"] == await missed(backend, position, newest=True)
    assert ["to one"] == await missed(backend, position, session_id="session", newest=True)
    assert ["to a topic"] == await missed(backend, position, topic="topic", newest=True)


async def test_f80_news_of_resources_is_for_the_sessions_that_subscribed(backend: Backend) -> None:
    for name, uri in (("session", "file:///a"), ("other", "file:///b")):
        await a_session(backend, name)
        await backend.subscriptions.subscribe(name, uri, None, sender="a")
    position = await backend.mailbox.position()
    for uri in ("file:///a", "file:///b", "file:///"):
        await publish(backend, uri, uri=uri)
    await publish(backend, "tools")

    assert ["file:///a", "tools"] == await missed(backend, position, session_id="session", subscribed=True)
    assert ["file:///b", "tools"] == await missed(backend, position, session_id="other", subscribed=True)
    assert ["tools"] == await missed(backend, position, session_id="unknown", subscribed=True)
    assert ["tools"] == await missed(backend, position, subscribed=True)
    assert 4 == len(await missed(backend, position, session_id="session"))


async def test_f80_what_a_session_has_subscribed_to_counts_when_it_asks(backend: Backend) -> None:
    await a_session(backend)
    position = await backend.mailbox.position()
    await publish(backend, "before", uri="file:///a")
    await backend.subscriptions.subscribe("session", "file:///a", None, sender="a")
    assert ["before"] == await missed(backend, position, session_id="session", subscribed=True)

    await backend.subscriptions.unsubscribe("session", "file:///a", sender="a")

    assert [] == await missed(backend, position, session_id="session", subscribed=True)


@pytest.mark.parametrize("position", ["", "garbage", "1:1:@1.0", "1:1:@\x00"], ids=repr)
async def test_news_past_a_position_that_cannot_be_used_is_none(backend: Backend, position: str) -> None:
    assert await backend.news_log.missed(position) is None


@given(mail_ttl=0.5)
async def test_f71_news_is_refused_before_it_is_incomplete(backend: Backend) -> None:
    position = await backend.mailbox.position()
    await publish(backend, "1")

    async def is_refused() -> bool:
        await backend.reaping.reap(10)
        page = await backend.news_log.missed(position)
        assert page is None or ["1"] == [mail.body for mail in page.mails]
        return page is None

    await until(is_refused)
