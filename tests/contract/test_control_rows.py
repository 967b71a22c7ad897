"""The control log's rows: numbered in the order of their commits, kept while somebody may want them. F81."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import StoreError
from mcpsession.model import ControlMessage, Mail, Reaped
from mcpsession.news_contracts import ControlPage, ControlPlace
from tests.contract.given import given, mail_since, until

MIB = 1024 * 1024
START = ControlPlace()


async def send(
    backend: Backend, method: str = "reload", params: str = "{}", *, key: str = "", sender: str = "a"
) -> int:
    return await backend.control.append(method, key, params, sender=sender)


async def page(
    backend: Backend, place: ControlPlace = START, limit: int = 1000, *, newest: bool = False
) -> ControlPage:
    """A page past a place that must be of this log."""
    found = await backend.control.read(place, limit, newest=newest)
    assert found is not None
    return found


async def versions(backend: Backend, *, newest: bool = False) -> list[int]:
    return [message.version for message in (await page(backend, newest=newest)).messages]


async def all_pages(backend: Backend, limit: int, *, newest: bool = False) -> Sequence[ControlPage]:
    pages = [await page(backend, START, limit, newest=newest)]
    while pages[-1].more:
        pages.append(await page(backend, pages[-1].place, limit, newest=newest))
    return pages


# ---- Adding ---------------------------------------------------------------------------------------------------------


async def test_f81_messages_are_numbered_and_kept_as_they_were_sent(backend: Backend) -> None:
    assert [1, 2] == [
        await send(backend, "reload", '{"what":"é"}', sender="a"),
        await send(backend, "level", "{}", key="mail", sender="b"),
    ]

    assert [
        ControlMessage(1, "reload", "", '{"what":"é"}', "a"),
        ControlMessage(2, "level", "mail", "{}", "b"),
    ] == list((await page(backend)).messages)


async def test_f81_a_message_comes_with_a_mail_to_all_that_names_its_version(backend: Backend) -> None:
    position = await backend.mailbox.position()

    await send(backend)
    await send(backend)

    said = [(mail.kind, mail.sender, mail.recipient, mail.body) for mail in await mail_since(backend, position)]
    assert [("control", "a", None, "1"), ("control", "a", None, "2")] == said


async def test_f81_namespaces_have_logs_of_their_own(backend: Backend, neighbour: Backend) -> None:
    await send(backend)
    position = await neighbour.mailbox.position()

    assert 1 == await send(neighbour, "level")

    assert ["reload"] == [message.method for message in (await page(backend)).messages]
    assert ["level"] == [message.method for message in (await page(neighbour)).messages]
    assert 1 == len(await mail_since(neighbour, position))


async def test_f81_messages_that_are_added_at_once_have_versions_without_gaps_and_one_is_the_newest(
    backend: Backend,
) -> None:
    given_out: list[int] = []

    async def add() -> None:
        given_out.append(await send(backend))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(add)

    assert [*range(1, 21)] == sorted(given_out)
    assert [*range(1, 21)] == await versions(backend)
    assert [20] == await versions(backend, newest=True)


@pytest.mark.parametrize("bad", ["\x00", "\ud800"])
async def test_f81_what_cannot_be_stored_takes_no_number(backend: Backend, bad: str) -> None:
    position = await backend.mailbox.position()
    for method, key, params in ((bad, "", "{}"), ("m", bad, "{}"), ("m", "", bad)):
        with pytest.raises(StoreError):
            await backend.control.append(method, key, params, sender="a")

    assert 1 == await send(backend)
    assert ["1"] == [mail.body for mail in await mail_since(backend, position)]


# ---- Reading --------------------------------------------------------------------------------------------------------


async def test_f81_an_empty_log_has_an_empty_page(backend: Backend) -> None:
    for newest in (False, True):
        assert ControlPage([], START, more=False) == await page(backend, newest=newest)


async def test_f81_past_a_place_comes_what_was_added_since(backend: Backend) -> None:
    await send(backend)
    first = await page(backend)
    assert (1, False) == (first.place.version, first.more)
    assert [] == list((await page(backend, first.place)).messages)

    await send(backend)
    await send(backend)

    assert [2, 3] == [message.version for message in (await page(backend, first.place)).messages]


async def test_f81_a_version_alone_is_a_place_too(backend: Backend) -> None:
    for _ in range(3):
        await send(backend)
    assert [3] == [message.version for message in (await page(backend, ControlPlace(2))).messages]


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_f81_pages_together_are_the_whole_log_in_order(backend: Backend, limit: int, newest: bool) -> None:
    for number in range(6):
        await send(backend, f"method-{number}")

    pages = await all_pages(backend, limit, newest=newest)

    assert [*range(1, 7)] == [message.version for page in pages for message in page.messages]
    assert all(len(page.messages) <= limit for page in pages)
    assert 6 == pages[-1].place.version


async def test_f81_a_page_ends_with_the_message_that_fills_four_mib(backend: Backend) -> None:
    body = '"' + "x" * (3 * MIB // 2) + '"'
    for _ in range(5):
        await send(backend, params=body)

    pages = await all_pages(backend, 100)

    assert [[1, 2, 3], [4, 5]] == [[message.version for message in page.messages] for page in pages]


async def test_f81_a_message_larger_than_a_page_is_a_page(backend: Backend) -> None:
    for _ in range(2):
        await send(backend, params='"' + "x" * (5 * MIB) + '"')

    pages = await all_pages(backend, 100)

    assert [[1], [2]] == [[message.version for message in page.messages] for page in pages]


async def test_f81_of_each_method_and_key_one_message_is_the_newest(backend: Backend) -> None:
    for method, key in (("reload", ""), ("reload", "prices"), ("reload", ""), ("level", ""), ("level", "")):
        await send(backend, method, key=key)

    assert [2, 3, 5] == await versions(backend, newest=True)
    # For who was away, the others are there still.
    assert [1, 2, 3, 4, 5] == await versions(backend)


async def test_f81_a_message_that_is_replaced_between_two_pages_comes_as_its_successor(backend: Backend) -> None:
    for number in range(4):
        await send(backend, f"method-{number}")
    first = await page(backend, START, 2, newest=True)
    assert [1, 2] == [message.version for message in first.messages]

    await send(backend, "method-0")
    await send(backend, "method-3")

    second = await page(backend, first.place, 100, newest=True)
    assert [3, 5, 6] == [message.version for message in second.messages]


async def test_f81_a_place_past_the_newest_message_is_of_another_log(backend: Backend) -> None:
    assert await backend.control.read(ControlPlace(1), 10) is None
    await send(backend)
    assert await backend.control.read(ControlPlace(1), 10) is not None
    assert await backend.control.read(ControlPlace(2), 10) is None


async def test_f81_a_place_after_another_message_of_the_same_version_is_of_another_log(
    backend: Backend, neighbour: Backend
) -> None:
    """As after a fail-over that lost a message, and somebody sent another since."""
    await send(neighbour)
    elsewhere = (await page(neighbour)).place
    await send(backend)
    here = (await page(backend)).place
    await send(backend)

    assert await backend.control.read(elsewhere, 10) is None
    assert await backend.control.read(here, 10) is not None


# ---- What goes ------------------------------------------------------------------------------------------------------


@given(control_ttl=0.05)
async def test_f81_what_was_replaced_is_reaped_after_its_ttl_and_the_newest_stays(backend: Backend) -> None:
    for _ in range(3):
        await send(backend)
    await send(backend, "level")
    place = (await page(backend)).place
    reaped = 0

    async def is_reaped() -> bool:
        nonlocal reaped
        reaped += (await backend.reaping.reap(10)).control
        return reaped == 2

    await until(is_reaped)

    assert Reaped() == await backend.reaping.reap(10)
    assert [3, 4] == await versions(backend)
    # Versions go on, and places stay good.
    assert 5 == await send(backend)
    assert [5] == [message.version for message in (await page(backend, place)).messages]
    assert [3, 4, 5] == [message.version for message in (await page(backend, ControlPlace(1))).messages]


@given(control_ttl=0.2)
async def test_f81_what_was_replaced_long_ago_goes_however_often_it_is_replaced_again(backend: Backend) -> None:
    async def is_reaped() -> bool:
        await send(backend)
        return (await backend.reaping.reap(10)).control > 0

    await until(is_reaped)


async def test_f81_what_was_replaced_stays_for_its_ttl(backend: Backend) -> None:
    for _ in range(2):
        await send(backend)
    assert 0 == (await backend.reaping.reap(10)).control
    assert [1, 2] == await versions(backend)


@given(control_ttl=0.001)
async def test_f81_no_more_replaced_messages_are_reaped_at_once_than_asked_for(backend: Backend) -> None:
    for _ in range(6):
        await send(backend)
    counts: list[int] = []

    async def all_gone() -> bool:
        if count := (await backend.reaping.reap(2)).control:
            counts.append(count)
        return sum(counts) == 5

    await until(all_gone)
    assert 2 >= max(counts)


@given(control_ttl=0.001)
async def test_f81_namespaces_reap_their_own_control_messages(backend: Backend, neighbour: Backend) -> None:
    for _ in range(2):
        await send(backend)

    async def is_reaped() -> bool:
        assert 0 == (await neighbour.reaping.reap(10)).control
        return (await backend.reaping.reap(10)).control == 1

    await until(is_reaped)


async def test_f81_what_is_forgotten_is_as_replaced(backend: Backend) -> None:
    await send(backend)
    await send(backend, key="prices")
    await send(backend)

    assert await backend.control.forget("reload", "")

    assert [2] == await versions(backend, newest=True)
    assert [1, 2, 3] == await versions(backend)
    assert not await backend.control.forget("reload", "")
    assert 4 == await send(backend)
    assert [2, 4] == await versions(backend, newest=True)


async def test_f81_what_never_was_cannot_be_forgotten(backend: Backend) -> None:
    assert not await backend.control.forget("reload", "")
    await send(backend, key="prices")
    assert not await backend.control.forget("reload", "")
    assert not await backend.control.forget("level", "prices")


async def test_f81_who_reads_the_newest_stands_behind_a_forgotten_one(backend: Backend) -> None:
    """Else it would be applied by whoever goes on from there."""
    await send(backend, "level")
    await send(backend)
    await backend.control.forget("reload", "")

    place = (await page(backend, newest=True)).place

    assert 2 == place.version
    assert [] == list((await page(backend, place)).messages)


@given(control_ttl=0.001)
async def test_f81_a_place_behind_a_reaped_message_stays_good(backend: Backend) -> None:
    await send(backend)
    place = (await page(backend)).place
    await backend.control.forget("reload", "")

    async def is_reaped() -> bool:
        return (await backend.reaping.reap(10)).control == 1

    await until(is_reaped)
    assert ControlPage([], ControlPlace(1), more=False) == await page(backend, place)
    await send(backend)
    assert [2] == [message.version for message in (await page(backend, place)).messages]


async def test_f81_forgetting_beside_a_new_message_forgets_one_of_the_two(backend: Backend) -> None:
    for _ in range(10):
        await send(backend)
        outcomes: list[bool] = []

        async def forget(outcomes: list[bool] = outcomes) -> None:
            outcomes.append(await backend.control.forget("reload", ""))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, backend)
            tasks.start_soon(forget)
        assert [True] == outcomes
        left = await versions(backend, newest=True)
        assert left in ([], [(await page(backend)).place.version])


async def test_f81_a_control_mail_is_read_as_any_other(backend: Backend) -> None:
    position = await backend.mailbox.position()
    await backend.mailbox.broadcast([Mail("news", "a", body="first")])
    await send(backend)
    assert ["news", "control"] == [mail.kind for mail in await mail_since(backend, position)]
