"""How fast the session store is beside bare asyncpg that asks Postgres the same: `python -m benchmarks --only store`.

One process asks, Postgres answers in another. Both sides are up for the whole run, each with sessions of its own in a
namespace of its own, and take turns at each operation.
"""

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.store_check import StoreSide, check_statements
from benchmarks.store_layer import Layer
from benchmarks.store_raw import Raw
from benchmarks.store_report import Measured, StoreResult
from benchmarks.store_rows import Rows
from benchmarks.store_turn import Turn, whole, work
from mcpsession.model import new_session_id
from mcpsession.settings import Settings

OPERATIONS = ("create", "get", "touch", "retrieve", "update", "delete")

LISTED = 10_000

# At most so many seconds for caches, prepared statements and the interpreter to settle.
WARMUP = 0.3


@dataclass(frozen=True)
class StoreLoad:
    """How much is measured."""

    stored: int
    """Sessions that are there all the time."""
    reaped: int
    """Expired sessions of one turn of reaping."""
    seconds: float
    rounds: int
    lists: int
    """Lists in one turn of listing."""
    same: bool = False
    """The raw side against itself."""

    @property
    def listed(self) -> int:
        return min(LISTED, self.stored)


async def measure_store(url: str, load: StoreLoad, say: Callable[[str], None]) -> StoreResult:
    """Measure every operation on an empty, migrated database; `say` is told what comes next.

    Raises:
        StatementsDifferError: the sides do not ask the same of Postgres.
        WrongResultError: an operation did not do what was asked.
    """
    # Reaped is what is measured, when it is measured.
    settings = Settings(namespace="store", reap_every=None)
    raw_settings = Settings(namespace="raw", reap_every=None)
    store = Raw.running(url, settings, key="store") if load.same else Layer.running(url, settings)
    async with store as one, Raw.running(url, raw_settings) as other, Rows.connected(url, settings) as rows:
        bench = Bench(load, settings.pool_size, rows, [one, other], say)
        await bench.fill()
        await check_statements([one, other], rows, OPERATIONS, load.listed)
        measured = await bench.measure()
        titles = {side.key: side.title for side in (one, other)}
    return StoreResult(titles, load.stored, load.listed, load.reaped, load.seconds, load.rounds, measured)


class Bench:
    """Both sides, and who lays out and clears away the sessions that they work on."""

    def __init__(
        self, load: StoreLoad, most_at_once: int, rows: Rows, sides: Sequence[StoreSide], say: Callable[[str], None]
    ) -> None:
        self._load = load
        self._most_at_once = most_at_once
        self._rows = rows
        self._sides = sides
        self._say = say
        self._stored: dict[str, list[str]] = {}

    async def fill(self) -> None:
        """Store the sessions that are there all the time."""
        self._say(f"storing {self._load.stored:,} sessions for each side")
        for side in self._sides:
            self._stored[side.key] = [new_session_id() for _ in range(self._load.stored)]
            await self._rows.add(side.namespace, self._stored[side.key])
        await self._rows.tidy_up()
        await self._rows.analyze()

    async def measure(self) -> list[Measured]:
        """Every operation, with one and with as many at once as the pool has connections; then the large ones."""
        at_once = sorted({1, self._most_at_once})
        measured = [await self._measure(operation, number) for operation in OPERATIONS for number in at_once]
        await self._rows.tidy_up()
        measured.append(await self._take_turns("list", f"list of {self._load.listed:,}", 1, self._list))
        measured.append(await self._take_turns("reap", "reap", 1, self._reap))
        return measured

    async def _measure(self, operation: str, at_once: int) -> Measured:
        # A warm-up also says how many sessions a turn can need.
        warmup, supply = min(WARMUP, self._load.seconds), 500 * at_once
        warmups = [await self._work(side, operation, at_once, warmup, supply) for side in self._sides]
        supply = at_once + int(2 * self._load.seconds * max(turn.rate for turn in warmups))

        async def turn(side: StoreSide) -> Turn:
            return await self._work(side, operation, at_once, self._load.seconds, supply)

        return await self._take_turns(operation, f"{operation} x{at_once}", at_once, turn)

    async def _take_turns(
        self, operation: str, title: str, at_once: int, turn: Callable[[StoreSide], Awaitable[Turn]]
    ) -> Measured:
        turns: dict[str, list[Turn]] = {side.key: [] for side in self._sides}
        for number in range(self._load.rounds):
            # The order turns round: a machine that gets slower is fair to both.
            for side in self._sides if number % 2 == 0 else self._sides[::-1]:
                self._say(f"{title}, round {number + 1} of {self._load.rounds}: {side.key}")
                turns[side.key].append(await turn(side))
        return Measured(operation, title, at_once, turns)

    async def _work(self, side: StoreSide, operation: str, at_once: int, seconds: float, supply: int) -> Turn:
        do: Callable[[str], Awaitable[None]] = getattr(side, operation)
        async with self._sessions_for(operation, side, supply) as session_ids:
            return await work(do, session_ids, at_once=at_once, seconds=seconds)

    async def _list(self, side: StoreSide) -> Turn:
        # Warm already: the comparison of the statements went through a list, too.
        return await whole(side.walk, self._load.listed, times=self._load.lists, counted=1)

    async def _reap(self, side: StoreSide) -> Turn:
        session_ids = [new_session_id() for _ in range(self._load.reaped)]
        await self._rows.add_expired(side.namespace, session_ids)
        await self._rows.tidy_up()
        await self._rows.analyze()
        return await whole(side.reap, self._load.reaped, times=1, counted=self._load.reaped)

    @asynccontextmanager
    async def _sessions_for(self, operation: str, side: StoreSide, supply: int) -> AsyncIterator[Iterable[str]]:
        """The sessions of one turn; what it leaves of them is removed."""
        own: list[str] = []
        if operation == "delete":
            own = [new_session_id() for _ in range(supply)]
            await self._rows.add(side.namespace, own)
        if operation != "get":
            await self._rows.tidy_up()
        match operation:
            case "create":
                yield _new_ids(own)
            case "delete":
                yield own
            case _:
                yield itertools.cycle(random.sample(self._stored[side.key], self._load.stored))
        if own:
            await self._rows.remove(side.namespace, own)


def _new_ids(handed_out: list[str]) -> Iterator[str]:
    while True:
        handed_out.append(new_session_id())
        yield handed_out[-1]
