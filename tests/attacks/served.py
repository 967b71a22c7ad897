"""What is asked of a replica once something was cancelled there, and how its streams stand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio
import asyncpg

from tests.attacks.sockets import Socket
from tests.sdk.replicas import Client, Replica, text_of

numbers = count(1)


async def serves(at: Replica, client: Client) -> None:
    """The session goes on."""
    with anyio.fail_after(10):
        async with client.echo(at) as response:
            assert "hello" == text_of(await response.message())


@asynccontextmanager
async def borrowing(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def fetch(url: str, query: str, *arguments: Any) -> list[Any]:
    async with borrowing(url) as connection:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]


async def finals(url: str, session_id: str) -> set[tuple[bool, int]]:
    """Of each of a session's request streams: whether it is finished, and how many answers it has."""
    query = """
        SELECT DISTINCT t.finished_at IS NOT NULL, (
            SELECT count(*) FROM mcpsession.events e
            WHERE e.session_id = t.session_id AND e.stream_id = t.id AND e.message NOT LIKE '%"method"%')
        FROM mcpsession.streams t WHERE t.session_id = $1 AND t.kind = 'request'"""
    return set(await fetch(url, query, session_id))


def said(number: int) -> str:
    return f'{{"jsonrpc":"2.0","method":"notifications/said","params":{{"number":{number}}}}}'


def tell(at: Replica, client: Client, number: int) -> None:
    at.parts.journal.append_standalone(client.session_id, said(number))


def until_heard(number: int) -> Callable[[Socket], None]:
    def hear(socket: Socket) -> None:
        if b'"number":%d}' % number in socket.body:
            socket.hang_up()

    return hear


def until_primed(socket: Socket) -> None:
    if b"id: " in socket.body:
        socket.hang_up()
