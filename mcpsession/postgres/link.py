"""A connection of its owner's own: for the journal, the bells and the heart, which must not wait for a pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import asyncpg

from mcpsession.errors import StoreError, StoreUnavailableError
from mcpsession.postgres.address import DRIVER_ERRORS, Address
from mcpsession.postgres.pool import Connection, Statements

_CLOSE_DEADLINE = 2.0
# A link that broke is wanted again at once: just as long as the driver needs to call a statement off.
_DROP_DEADLINE = 0.5


class Link(Statements):
    """One connection of its owner's own, dialled when first used, and again when it was lost."""

    def __init__(self, address: Address, *, otherwise: Address | None = None, timeout: float | None = None) -> None:
        self._address = address
        self._otherwise = otherwise
        self._timeout = timeout
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Link {self._address.where} {'up' if self._connection else 'down'}>"

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[Link]:
        """Close it when leaving."""
        try:
            yield self
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                with anyio.CancelScope(shield=True):
                    await close(connection)

    async def warm_up(self) -> None:
        """Dial now, in the time that any connection may take: later the link's own timeout counts."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._dial(connect_timeout=None)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._dial(connect_timeout=self._timeout)
            try:
                yield self._connection
            except BaseException as error:
                # The server's refusal leaves the connection sound. After anything else it may be dead, on the wrong
                # server, (cancelled) have an answer in the pipe that is nobody's any more, or (a value that the driver
                # cannot encode) have a transaction open, until the next statement.
                ours = self._address.translate(error) if isinstance(error, DRIVER_ERRORS) else None
                if not isinstance(ours, StoreError) or getattr(error, "message", None) is None:
                    lost, self._connection = self._connection, None
                    with anyio.CancelScope(shield=True):
                        await close(lost, deadline=_DROP_DEADLINE)
                if ours is None:
                    raise
                raise ours from error

    async def _dial(self, *, connect_timeout: float | None) -> asyncpg.Connection[asyncpg.Record]:
        given = {"timeout": connect_timeout, "command_timeout": self._timeout}
        overrides = {name: value for name, value in given.items() if value is not None}
        try:
            return await self._address.dial(**overrides)
        except (StoreUnavailableError, StoreError):
            if self._otherwise is None:
                raise
        return await self._otherwise.dial(**overrides)


async def close(connection: asyncpg.Connection[asyncpg.Record], *, deadline: float = _CLOSE_DEADLINE) -> None:
    """Close politely if that goes quickly. Call it shielded."""
    with anyio.move_on_after(deadline):
        await connection.close()
    if not connection.is_closed():
        connection.terminate()
