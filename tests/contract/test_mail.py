"""Mailbox: to one until deleted, to all exactly once by position, and honest about what may have been missed."""

from __future__ import annotations

import anyio

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.model import Mail
from tests.contract.conftest import Join


def news_of(*bodies: str, sender: str = "a") -> list[Mail]:
    return [Mail("news", sender, body=body) for body in bodies]


async def read(backend: Backend, position: str) -> tuple[list[str], str]:
    """The bodies of the broadcast mail past a position, and the new position."""
    page = await backend.mailbox.news(position)
    assert page is not None
    assert not page.more
    return [mail.body for mail in page.mails], page.position


# to one


async def test_mail_to_one_arrives_as_it_was_sent(backend: Backend, join: Join) -> None:
    await join("b")

    assert await backend.mailbox.send(Mail("answer", "a", "b", "session", '{"id":"ü"}'))

    [mail] = await backend.mailbox.inbox("b")
    assert ("answer", "a", "b", "session", '{"id":"ü"}') == (
        mail.kind,
        mail.sender,
        mail.recipient,
        mail.session_id,
        mail.body,
    )
    assert mail.id > 0
    assert mail.xid > 0


async def test_mail_to_the_unknown_or_the_dead_is_refused(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("dead")
    await registry.leave("dead")

    for recipient in ("dead", "unknown"):
        assert not await backend.mailbox.send(Mail("answer", "a", recipient))
        assert [] == list(await backend.mailbox.inbox(recipient))


async def test_an_inbox_is_read_oldest_first(backend: Backend, join: Join) -> None:
    await join("b")
    for body in ("1", "2", "3"):
        await backend.mailbox.send(Mail("progress", "a", "b", body=body))

    inbox = await backend.mailbox.inbox("b")

    assert ["1", "2", "3"] == [mail.body for mail in inbox]
    assert sorted({mail.id for mail in inbox}) == [mail.id for mail in inbox]


async def test_mail_stays_in_the_inbox_until_it_is_deleted(backend: Backend, join: Join) -> None:
    await join("b")
    for body in ("1", "2", "3"):
        await backend.mailbox.send(Mail("answer", "a", "b", body=body))
    first, second, third = await backend.mailbox.inbox("b")
    assert [first, second, third] == list(await backend.mailbox.inbox("b"))

    await backend.mailbox.delete([first.id, third.id])
    await backend.mailbox.delete([first.id])
    await backend.mailbox.delete([])

    assert [second] == list(await backend.mailbox.inbox("b"))


async def test_everyone_has_an_inbox_of_their_own(backend: Backend, join: Join) -> None:
    await join("b", "c")
    await backend.mailbox.send(Mail("answer", "a", "b"))

    assert 1 == len(await backend.mailbox.inbox("b"))
    assert [] == list(await backend.mailbox.inbox("c"))
    assert [] == list(await backend.mailbox.inbox("a"))


# to all


async def test_broadcast_mail_arrives_as_it_was_sent(backend: Backend) -> None:
    position = await backend.mailbox.position()

    await backend.mailbox.broadcast([Mail("cancel", "a", session_id="session", body='{"id":1}')])

    news = await backend.mailbox.news(position)
    assert news is not None
    [mail] = news.mails
    assert ("cancel", "a", None, "session", '{"id":1}') == (
        mail.kind,
        mail.sender,
        mail.recipient,
        mail.session_id,
        mail.body,
    )
    assert mail.id > 0
    assert mail.xid > 0


async def test_each_broadcast_is_read_once(backend: Backend) -> None:
    position = await backend.mailbox.position()
    await backend.mailbox.broadcast(news_of("1"))
    await backend.mailbox.broadcast(news_of("2", "3"))

    first, position = await read(backend, position)
    nothing, position = await read(backend, position)
    await backend.mailbox.broadcast(news_of("4"))
    second, position = await read(backend, position)

    assert [["1", "2", "3"], [], ["4"]] == [first, nothing, second]


async def test_a_position_can_be_read_from_again(backend: Backend) -> None:
    """It is a client's cursor: what was read does not go away by reading."""
    position = await backend.mailbox.position()
    await backend.mailbox.broadcast(news_of("1"))

    assert ["1"] == (await read(backend, position))[0]
    assert ["1"] == (await read(backend, position))[0]


async def test_what_was_published_before_a_position_is_not_news(backend: Backend) -> None:
    await backend.mailbox.broadcast(news_of("before"))

    assert [] == (await read(backend, await backend.mailbox.position()))[0]


async def test_the_order_of_one_sender_is_kept(backend: Backend) -> None:
    position = await backend.mailbox.position()
    for number in range(0, 30, 3):
        await backend.mailbox.broadcast(news_of(*(f"{place}" for place in range(number, number + 3))))

    assert [f"{number}" for number in range(30)] == (await read(backend, position))[0]


async def test_nothing_is_lost_or_doubled_while_many_publish(backend: Backend) -> None:
    position = await backend.mailbox.position()
    heard: list[str] = []
    publishing = 6

    async def publish(sender: int) -> None:
        nonlocal publishing
        for number in range(20):
            await backend.mailbox.broadcast(news_of(f"{sender} {number}", sender=f"{sender}"))
        publishing -= 1

    async with anyio.create_task_group() as tasks:
        for sender in range(publishing):
            tasks.start_soon(publish, sender)
        while publishing:
            await anyio.lowlevel.checkpoint()
            some, position = await read(backend, position)
            heard += some
    some, position = await read(backend, position)
    heard += some

    for sender in range(6):
        own = [body for body in heard if body.startswith(f"{sender} ")]
        assert [f"{sender} {number}" for number in range(20)] == own
    assert 120 == len(heard)


async def test_mail_to_one_is_nobody_elses_news(backend: Backend, join: Join) -> None:
    await join("b")
    position = await backend.mailbox.position()
    await backend.mailbox.send(Mail("news", "a", "b", body="private"))

    assert [] == (await read(backend, position))[0]


async def test_broadcasting_nothing_is_allowed(backend: Backend) -> None:
    position = await backend.mailbox.position()

    await backend.mailbox.broadcast([])

    assert [] == (await read(backend, position))[0]


# namespaces


async def test_namespaces_never_hear_each_other(backend: Backend, neighbour: Backend, join: Join) -> None:
    await join("b")
    ours, theirs = await backend.mailbox.position(), await neighbour.mailbox.position()

    await backend.mailbox.broadcast(news_of("ours"))
    assert await backend.mailbox.send(Mail("answer", "a", "b"))
    assert not await neighbour.mailbox.send(Mail("answer", "a", "b"))

    assert [] == (await read(neighbour, theirs))[0]
    assert [] == list(await neighbour.mailbox.inbox("b"))
    [mail] = await backend.mailbox.inbox("b")
    await neighbour.mailbox.delete([mail.id])
    assert [mail] == list(await backend.mailbox.inbox("b"))
    assert ["ours"] == (await read(backend, ours))[0]
