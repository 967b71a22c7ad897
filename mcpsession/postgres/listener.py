"""Bells over LISTEN and NOTIFY: they wake, they never deliver.

Costs two connections a replica, and at rest one statement a second: the ping that proves that bells arrive. A bell
rings at once when nothing is in flight; under load the next batch forms meanwhile. The ear's connection is its own and
direct, never a pooler's; a callback that does not return, or a transaction left open there, would stop NOTIFY for the
whole database.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NoReturn

import anyio
import anyio.abc
import asyncpg

from mcpsession.errors import ListenerError, StoreUnavailableError
from mcpsession.model import Bell, ReplicaId
from mcpsession.postgres.address import Address
from mcpsession.postgres.link import Link, close
from mcpsession.postgres.pool import Connection
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)

NOTIFY = """
SELECT pg_notify(bells.channel, bells.word)
FROM unnest($1::text[], $2::text[]) AS bells (channel, word)
"""

# A bell is worth nothing once its reader has polled; so many unrung ones mean that the store is away.
_MOST_UNRUNG = 10_000
_MOST_UNHEARD = 10_000
_BATCH = 1000
_LONGEST_WORD = 7_999
_PING = "\x01"

# Without an echo for so long the connection is taken for dead, whatever its socket says.
_DEAF = 3.0
_HEALTHY = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


def channel(settings: Settings, replica: ReplicaId | None) -> str:
    """The channel of one replica, or of all (None): at most 63 bytes, other namespaces have others."""
    namespace = hashlib.blake2s(settings.namespace.encode(), digest_size=6).hexdigest()
    name = "all" if replica is None else replica
    # LISTEN cuts a longer one off without a word.
    if len(name.encode()) > 20:
        name = hashlib.blake2s(name.encode(), digest_size=10).hexdigest()
    return f"{settings.channel_prefix}_{namespace}_{name}"


class PostgresDoorbell:
    """Doorbell over one notifying link, and one listening connection for each `listening`."""

    def __init__(self, notifier: Link, ear: Address, settings: Settings) -> None:
        self._notifier = notifier
        self._address = ear
        self._settings = settings
        self._unrung: deque[tuple[str, str]] = deque(maxlen=_MOST_UNRUNG)
        self._wake = anyio.Event()
        self._failing = False
        self._ears: list[_Ear] = []
        self._proven = False

    def ring(self, bell: Bell) -> None:
        if len(bell.word.encode(errors="replace")) > _LONGEST_WORD:
            logger.error("a bell of %d characters was not rung: it must carry ids only", len(bell.word))
            return
        self._unrung.append((channel(self._settings, bell.recipient), bell.word))
        self._wake.set()

    async def ring_on(self) -> NoReturn:
        """Ring what is to be rung, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._unrung:
                # Equal bells of one batch are one.
                batch = list(dict.fromkeys(self._unrung.popleft() for _ in range(min(_BATCH, len(self._unrung)))))
                try:
                    await self._notifier.execute(NOTIFY, [bell[0] for bell in batch], [bell[1] for bell in batch])
                    self._failing = False
                except Exception as error:  # the boundary: one bad batch must not silence this replica
                    if not self._failing:
                        logger.warning("%d bells were lost, their readers poll meanwhile: %s", len(batch), error)
                    self._failing = True
                    await anyio.sleep(random.uniform(0.1, 0.3))

    @asynccontextmanager
    async def listening(
        self, replica: ReplicaId, *, heard: Callable[[str], None], reconnected: Callable[[], None]
    ) -> AsyncIterator[None]:
        ear = _Ear(self, self._address, self._settings, replica, heard, reconnected)
        self._ears.append(ear)
        try:
            # Once an ear was proven, a later one (of a replica that goes on under a new id) is patient.
            async with beside(lambda *, task_status: ear.listen_on(task_status, patient=self._proven)):
                self._proven = True
                yield
        finally:
            self._ears.remove(ear)

    def last_echo(self) -> float:
        return min((ear.last_echo for ear in self._ears), default=-math.inf)


class _Ear:
    """One replica's listening connection, made anew whenever it fell deaf."""

    def __init__(
        self,
        doorbell: PostgresDoorbell,
        address: Address,
        settings: Settings,
        replica: ReplicaId,
        heard: Callable[[str], None],
        reconnected: Callable[[], None],
    ) -> None:
        self._doorbell = doorbell
        self._address = address
        self._settings = settings
        self._replica = replica
        self._heard = heard
        self._reconnected = reconnected
        self._ping_every = min(1.0, settings.cache_lease / 2)
        self._numbers = count()
        self._words: deque[str] = deque()
        self._overflown = False
        self._wake = anyio.Event()
        self._pings: dict[str, float] = {}
        self.last_echo = -math.inf
        """When the last ping that was heard had been sent. All bells rung before that were heard, too."""

    async def listen_on(self, task_status: anyio.abc.TaskStatus[None], *, patient: bool) -> NoReturn:
        """Listen until cancelled. Unless patient, raises what went wrong before the ear was first proven."""
        ready, gap, pause = False, False, _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                async with self._connected() as connection:
                    early = await self._prove()
                    if gap:
                        self._call(self._reconnected)
                    if not ready:
                        task_status.started()
                    ready = gap = True
                    for word in early:
                        self._call(self._heard, word)
                    await self._serve(connection)
            except Exception as error:  # the boundary: whatever it was, a replica must not stay deaf
                if not ready and not patient:
                    raise
                logger.warning("listens again in about %.1f s, polls meanwhile: %s", pause, error)
            finally:
                self.last_echo = -math.inf
            # Only a connection that lived for a while proves that the trouble is over.
            if time.monotonic() - began > _HEALTHY:
                pause = _FIRST_PAUSE
            await anyio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        self._words.clear()
        self._pings.clear()
        self._overflown = False
        self._wake = anyio.Event()
        connection = await self._address.dial()
        try:
            connection.add_termination_listener(self._on_termination)
            try:
                for name in (channel(self._settings, self._replica), channel(self._settings, None)):
                    await connection.add_listener(name, self._on_notification)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                raise self._address.translate(error) from error
            yield connection
        finally:
            connection.remove_termination_listener(self._on_termination)
            with anyio.CancelScope(shield=True):
                await _leave(connection)

    def _on_notification(self, _connection: Connection, _pid: int, _channel: str, payload: object) -> None:
        if len(self._words) < _MOST_UNHEARD:
            self._words.append(str(payload))
        else:
            self._overflown = True
        self._wake.set()

    def _on_termination(self, _connection: Connection) -> None:
        self._wake.set()

    async def _prove(self) -> list[str]:
        """Wait for an echo of one's own, sent from the notifier's connection; return what else was heard till then.

        Raises ListenerError if there is none: a pooler in transaction mode takes LISTEN and delivers nothing.
        """
        early: list[str] = []
        with anyio.move_on_after(self._settings.echo_timeout):
            self._ping()
            while self.last_echo == -math.inf:
                await self._something()
                early.extend(self._take())
            return early
        raise ListenerError(self._settings.echo_timeout)

    async def _serve(self, connection: Connection) -> NoReturn:
        next_ping = time.monotonic() + self._ping_every
        while True:
            with anyio.move_on_after(max(0.0, next_ping - time.monotonic())):
                await self._something()
            if connection.is_closed():
                raise StoreUnavailableError("the listening connection was lost")
            if self._overflown:
                # What was dropped is found as after a reconnection: by looking at everything.
                logger.warning("more than %d bells were unheard: all is looked at", _MOST_UNHEARD)
                self._overflown = False
                self._call(self._reconnected)
            for word in self._take():
                self._call(self._heard, word)
            now = time.monotonic()
            if now - self.last_echo > _DEAF:
                raise StoreUnavailableError(f"the listening connection heard no echo for {_DEAF:g} s")
            if now >= next_ping:
                self._ping()
                next_ping = now + self._ping_every

    async def _something(self) -> None:
        await self._wake.wait()
        self._wake = anyio.Event()

    def _take(self) -> list[str]:
        """What was heard, without the pings; they are noted in their place."""
        words = []
        sent = -math.inf
        while self._words:
            word = self._words.popleft()
            if word.startswith(_PING):
                sent = max(sent, self._pings.pop(word, -math.inf))
            else:
                words.append(word)
        self.last_echo = max(self.last_echo, sent)
        return words

    def _ping(self) -> None:
        word = f"{_PING}{next(self._numbers)}"
        self._pings[word] = time.monotonic()
        self._doorbell.ring(Bell(self._replica, word))

    def _call(self, hear: Callable[..., None], *args: str) -> None:
        try:
            hear(*args)
        except Exception:  # the boundary: what a bell wakes must not deafen the ear
            logger.exception("a bell's hearer failed")


async def _leave(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    # A dead socket swallows even a polite goodbye; whoever reconnects must not wait for it.
    if connection.is_closed():
        connection.terminate()
    else:
        await close(connection)


@asynccontextmanager
async def beside(service: Callable[..., Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run a service beside the block, once it has started. An error of the block leaves as itself, not in a group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            await tasks.start(service)
            yield
        except Exception as error:
            failure = error
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
