"""F82: whoever may connect may also NOTIFY; what comes so is logged, and the ear lives."""

from __future__ import annotations

import logging

import anyio
import asyncpg
import pytest

from mcpsession.model import Bell, Mail
from mcpsession.post_office import PostOffice
from mcpsession.postgres.listener import channel
from mcpsession.settings import Settings
from tests.postgres.stores import living, running_backend

JUNK = {
    "nothing": "",
    "a word that is none": "junk",
    "JSON": '{"method": "notifications/tools/list_changed"}',
    "not ASCII": "ünïcödé \N{SNOWMAN}",
    "7,999 bytes": "x" * 7999,
    "a ping alone": "\x01",
    "a stranger's ping": "\x01999999",
    "a word with too much": "m m",
    "a word with too little": "s session",
    "spaces": "   ",
    "a line break": "n\n",
    "an epoch that is no number": "h session x",
    "an epoch with more digits than Python reads": "h session " + "9" * 7000,
    "another alphabet's digits": "a ٣ replica",
}


@pytest.mark.parametrize("name", JUNK)
async def test_f82_junk_on_the_channel_changes_nothing(
    database_url: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    handed: list[str] = []
    caplog.set_level(logging.WARNING)
    bystander = await asyncpg.connect(database_url)
    with anyio.fail_after(10):
        async with running_backend(database_url, namespace="junk") as backend, living(backend) as me:
            office = PostOffice(backend.mailbox, backend.doorbell, lambda: me)
            delivered = anyio.Event()

            def take(mail: Mail) -> None:
                handed.append(mail.body)
                delivered.set()

            office.on("news", take)
            await office.start()
            states: list[str] = []
            async with (
                backend.doorbell.listening(me, heard=office.hear, reconnected=office.wake, state=states.append),
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(office.run)
                for to in (me, None):
                    await bystander.execute(
                        "SELECT pg_notify($1, $2)", channel(Settings(namespace="junk"), to), JUNK[name]
                    )
                await office.broadcast(Mail("news", me, body="news"))
                await delivered.wait()
                backend.doorbell.ring(Bell(me, "m"))
                tasks.cancel_scope.cancel()
    await bystander.close()

    assert ["news"] == handed
    assert ["connected"] == states
    # A foreign ping is nobody's echo, and an acknowledgement that nobody waits for is none.
    silent = name in ("a ping alone", "a stranger's ping", "another alphabet's digits")
    assert silent == (caplog.messages == [])


async def test_f82_a_word_that_no_bell_can_carry_is_not_rung_and_costs_no_other(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []
    last = anyio.Event()

    def hear(word: str) -> None:
        heard.append(word)
        if word == "last":
            last.set()

    with anyio.fail_after(10):
        async with (
            running_backend(database_url) as backend,
            backend.doorbell.listening("me", heard=hear, reconnected=lambda: heard.append("gap")),
        ):
            for word in ("first", "x" * 8000, "\ud800", "nul\0", "ü" * 4000, "x" * 7999, "last"):
                backend.doorbell.ring(Bell("me", word))
            await last.wait()

    assert ["first", "x" * 7999, "last"] == heard
    assert 4 == len([message for message in caplog.messages if "was not rung" in message])
