"""F82: what is malformed is logged and ignored, and the replica goes on hearing."""

from __future__ import annotations

import logging

import asyncpg
import pytest

from mcpsession import SessionLayer
from mcpsession.model import Mail
from mcpsession.postgres.listener import channel
from tests.broadcast.hearing import END, hear_all, said
from tests.sessions.replicas import Place

JUNK = [
    "",
    "junk",
    "null",
    "3",
    '"text"',
    "[]",
    "{}",
    '{"method": 3}',
    '{"method": null, "params": {}}',
    '{"method": "test/x", "params": []}',
    '{"method": "test/x", "params": "text"}',
    '{"method": "test/x", "params": 0}',
    '{"method": "test/x", "params": {"a": "\\ud800"}}',
    '{"method": "test/x", "params": {"a": "\\uD800"}}',
    '{"method": "test/x", "params": {"a": ' + "1" * 5000 + "}}",
    '{"method": "test/x", "params": {"a": ' + "[" * 300 + "]" * 300 + "}}",
    "[" * 100_000,
]


@pytest.mark.parametrize("body", JUNK, ids=range(len(JUNK)))
async def test_f82_a_malformed_body_is_logged_and_ignored(
    here: SessionLayer, there: SessionLayer, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    also, subscription = here.broadcaster.subscribe(), there.broadcaster.subscribe()
    lagging = there.broadcaster.subscribe(policy="replay", buffer=1)
    with caplog.at_level(logging.WARNING, logger="mcpsession.broadcaster"):
        await here.broadcaster.publish(said(1))
        await here._parts.post_office.broadcast(Mail("news", "somebody", None, None, body))
        await here.broadcaster.publish(said(2))
        await here.broadcaster.publish(END)
        for one in (also, subscription, lagging):
            assert [1, 2] == await hear_all(one)
    # Once a replica.
    assert 2 == sum("malformed" in record.getMessage() for record in caplog.records)
    assert 1 == there.health().counts["mcpsession_malformed_news_total"]


async def test_f82_junk_on_the_channel_and_in_the_table_ends_nothing(
    postgres: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with postgres.replica() as replica:
        subscription = replica.broadcaster.subscribe()
        connection = await asyncpg.connect(postgres.url)
        try:
            to_all = channel(replica.settings, None)
            with caplog.at_level(logging.WARNING, logger="mcpsession"):
                for word in ("junk", "", "n n", "n" * 7999, "ä", '{"method":"test/x"}', "\x01"):
                    await connection.execute("SELECT pg_notify($1, $2)", to_all, word)
                await connection.execute(
                    """
                    INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at)
                    SELECT $1, 'somebody', kind, 'junk', now() + interval '1 hour'
                    FROM unnest('{news,changed,ended,control,no-such-kind}'::text[]) AS kind
                    """,
                    postgres.settings["namespace"],
                )
                await replica.broadcaster.publish(said(1))
                await replica.broadcaster.publish(END)
                assert [1] == await hear_all(subscription)
        finally:
            await connection.close()
        assert "ok" == replica.health().status
        assert any("malformed" in record.getMessage() for record in caplog.records)
        assert any("unknown word" in record.getMessage() for record in caplog.records)
