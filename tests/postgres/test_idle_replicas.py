"""What replicas cost Postgres that do nothing: at most two statements a second each, all timers included.

Counted by the driver, and by the server's own log, so that none is missed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.postgres.migrate import migrate
from tests.conftest import TEST_SETTINGS
from tests.counting import BEAT, PING, Statements
from tests.sdk.newsroom import standing
from tests.sdk.replicas import Client, Replica, replica

MOST = 2.0
"""Statements of one replica in a second."""
WATCHED = 8.0


class Talkative:
    """A server that writes down each statement that it is asked for."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.url = server.url
        self._log = server.directory / "log"

    def asked(self) -> int:
        """Statements of replicas so far."""
        return sum(
            line.startswith((b"of mcpsession LOG:  execute ", b"of mcpsession LOG:  statement: "))
            for line in self._log.read_bytes().splitlines()
        )


@pytest.fixture
def talkative() -> Iterator[Talkative]:
    settings = {**TEST_SETTINGS, "log_statement": "all", "log_line_prefix": "of %a "}
    with EmbeddedPostgres(settings=settings) as server:
        migrate(server.url)
        yield Talkative(server)


@asynccontextmanager
async def counted_replica(url: str, namespace: str) -> AsyncIterator[tuple[Replica, Statements]]:
    statements = Statements()
    async with replica(url, wrap=statements.watch, namespace=namespace) as at:
        yield at, statements


async def test_a_replica_at_rest_asks_for_two_statements_a_second_at_most(talkative: Talkative) -> None:
    """One that is alone, and two that hold open streams, whose clients say nothing."""
    with anyio.fail_after(60):
        async with AsyncExitStack() as stack:
            replicas = [
                await stack.enter_async_context(counted_replica(talkative.url, namespace))
                for namespace in ("alone", "two", "two")
            ]
            for at, _ in replicas[1:]:
                for _ in range(20):
                    client = await Client().initialize(at)
                    await stack.enter_async_context(standing(client, at))
            for at, _ in replicas:
                await at.parts.touches.flush()
                await at.parts.journal.flushed()
            await anyio.sleep(0.5)

            for _, statements in replicas:
                statements.clear()
            began, asked = time.monotonic(), talkative.asked()
            await anyio.sleep(WATCHED)
            counted = [statements.by_name for _, statements in replicas]
            asked, took = talkative.asked() - asked, time.monotonic() - began

    alone, one, other = counted
    assert alone.total() <= MOST * took, alone
    assert {BEAT, PING} == alone.keys()
    assert (one + other).total() <= 2 * MOST * took, (one, other)
    # One that was on its way, of each.
    assert abs(asked - sum(of.total() for of in counted)) <= len(replicas), (asked, counted)
