"""Whether both sides ask Postgres the same: without that a ratio of the two would say nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import zip_longest
from typing import NamedTuple, Protocol

import anyio.lowlevel
from asyncpg.connection import LoggedQuery

from benchmarks.store_rows import Rows
from mcpsession.model import new_session_id
from mcpsession.postgres import control, mail
from mcpsession.postgres.pool import Connection


class StoreSide(Protocol):
    """A way to the store. Each operation raises if it did not do what was asked."""

    key: str
    title: str
    namespace: str
    connections: int
    """How many it has."""

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """One of them, while inside."""
        ...

    async def create(self, session_id: str) -> None: ...
    async def get(self, session_id: str) -> None: ...
    async def touch(self, session_id: str) -> None: ...
    async def retrieve(self, session_id: str) -> None: ...
    async def update(self, session_id: str) -> None: ...
    async def delete(self, session_id: str) -> None: ...

    async def walk(self, number: int) -> None:
        """Go through the first so many, page by page."""
        ...

    async def reap(self, number: int) -> None:
        """Remove all that expired, which is so many."""
        ...


class Asked(NamedTuple):
    """A statement with the form of its arguments: ids and times differ from one session to the next."""

    statement: str
    arguments: tuple[object, ...]


class StatementsDifferError(Exception):
    """The layer has changed, and the raw side was not changed with it."""

    def __init__(self, operation: str, layer: list[Asked], raw: list[Asked]) -> None:
        pairs = enumerate(zip_longest(layer, raw), 1)
        number, one, other = next((number, one, other) for number, (one, other) in pairs if one != other)
        super().__init__(
            f"{operation}: what benchmarks/store_raw.py asks differs from what the layer asks, in statement {number}\n"
            f"layer: {_shown(one)}\nraw: {_shown(other)}"
        )


def _shown(asked: Asked | None) -> str:
    return "nothing" if asked is None else f"{' '.join(asked.statement.split())}  {asked.arguments}"


# What a running layer reads now and then over the same pool, whatever is asked of it.
_BACKGROUND = frozenset({mail.NEWS, mail.INBOX, mail.DELETE, mail.POSITION, control.READ, control.READ_NEWEST})
# What the driver asks of types, once on each connection: who came first on it pays for all.
_OF_TYPES = ("typeinfo_tree", "set_config('jit'")


async def check_statements(sides: Sequence[StoreSide], rows: Rows, operations: Sequence[str], listed: int) -> None:
    """Let every side do each operation once, and compare what they ask.

    Raises StatementsDifferError.
    """
    for operation in (*operations, "walk", "reap"):
        asked = []
        for side in sides:
            session_id = new_session_id()
            if operation == "reap":
                await rows.add_expired(side.namespace, [session_id])
            elif operation not in ("create", "walk"):
                await rows.add(side.namespace, [session_id])
            argument = {"walk": listed, "reap": 1}.get(operation, session_id)
            asked.append(await _asked(side, partial(getattr(side, operation), argument)))
            await rows.remove(side.namespace, [session_id])
        if asked[0] != asked[1]:
            raise StatementsDifferError(operation, *asked)


async def _asked(side: StoreSide, operation: Callable[[], Awaitable[None]]) -> list[Asked]:
    """What one operation asks, in order."""
    asked: list[Asked] = []

    def note(query: LoggedQuery) -> None:
        if query.query not in _BACKGROUND and not any(word in query.query for word in _OF_TYPES):
            asked.append(Asked(query.query, tuple(_form(argument) for argument in query.args)))

    async with _noting(side, note):
        await operation()
        # The driver calls back a little later.
        await anyio.lowlevel.checkpoint()
    return asked


@asynccontextmanager
async def _noting(side: StoreSide, note: Callable[[LoggedQuery], None]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for _ in range(side.connections):
            connection = await stack.enter_async_context(side.connection())
            connection.add_query_logger(note)
    try:
        yield
    finally:
        async with AsyncExitStack() as stack:
            for _ in range(side.connections):
                connection = await stack.enter_async_context(side.connection())
                connection.remove_query_logger(note)


def _form(argument: object) -> object:
    """A setting as it is, as both sides must have the same; of anything else the kind."""
    if isinstance(argument, (list, tuple)):
        return [_form(one) for one in argument]
    return argument if argument is None or isinstance(argument, (bool, float)) else type(argument).__name__
