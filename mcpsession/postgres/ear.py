"""The ear of a replica: one connection that listens, proven by pings, made anew whenever it fell deaf.

Costs one connection, and at rest a ping every two seconds, of all replicas together: it rings all, and whoever hears
it, or any bell, knows that bells arrive. The connection is its own and direct, never a pooler's; a callback that does
not return, or a transaction left open there, would stop NOTIFY for the whole database.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import NoReturn

import anyio
import anyio.abc
import asyncpg

from mcpsession.errors import ConfigurationError, ListenerError, StoreUnavailableError
from mcpsession.model import Bell, ListenerState, ReplicaId
from mcpsession.postgres.address import DRIVER_ERRORS, Address, keep_alive
from mcpsession.postgres.link import close
from mcpsession.postgres.pool import Connection
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)

_MOST_UNHEARD = 10_000
_PING = "\x01"

# After so long a silence an ear pings. Each draws its own: the first one breaks the silence of all.
_SILENCE = (1.5, 2.5)
# A ping that nothing was heard after. Two, and the connection is taken for dead, whatever its socket says; after one it
# may have been this process that stood still.
_UNHEARD = 1.0
_MOST_PINGS = 2
_HEALTHY = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# After an ear that heard. Should it be cut again and again, polling bridges the rest.
_LONGEST_PAUSE_HEARD = 0.5
# While nothing is heard, the log says so at once and then this often.
_TELL_EVERY = 60.0


class Ear:
    """One replica's listening connection, made anew whenever it fell deaf."""

    def __init__(
        self,
        replica: ReplicaId,
        channels: Sequence[str],
        address: Address,
        settings: Settings,
        *,
        ring: Callable[[Bell], None],
        heard: Callable[[str], None],
        reconnected: Callable[[], None],
        state: Callable[[ListenerState], None],
    ) -> None:
        self._channels = channels
        self._address = address
        self._settings = settings
        self._ring = ring
        self._replica = replica
        self._heard = heard
        self._reconnected = reconnected
        self._state = state
        self._has_heard = False
        self._told = -math.inf
        self._numbers = count()
        self._words: deque[str] = deque()
        self._overflown = False
        self._wake = anyio.Event()
        self._pings = 0
        """Pings since something was heard."""
        self._awaited: str | None = None
        """The last of one's own, until it is heard."""
        self.last_heard = -math.inf

    async def listen_on(self, task_status: anyio.abc.TaskStatus[None], *, patient: bool) -> NoReturn:
        """Listen until cancelled; started after the first attempt. Unless patient, raises why that one failed.

        What no patience will mend, a URL that cannot be parsed, is always raised.
        """
        started, pause = False, _FIRST_PAUSE
        while True:
            began, hears = time.monotonic(), False
            try:
                async with self._connected() as connection:
                    early = await self._prove(connection)
                    hears = True
                    self._begin(gap=started)
                    if not started:
                        task_status.started()
                    started = True
                    await self._hear_on(connection, early)
            except Exception as error:  # the boundary: whatever it was, a replica must not stay deaf
                if not started and (not patient or isinstance(error, ConfigurationError)):
                    raise
                # Only a connection that lived for a while proves that the trouble is over.
                if time.monotonic() - began > _HEALTHY and hears:
                    pause = _FIRST_PAUSE
                pause = min(pause, _LONGEST_PAUSE_HEARD if hears else _LONGEST_PAUSE)
                self._tell_of(error, pause, hears=hears)
            if not started:
                task_status.started()
            started = True
            await anyio.sleep(pause * random.uniform(0.5, 1.0))
            pause *= 2

    def _begin(self, *, gap: bool) -> None:
        self._call(self._state, "reconnected" if self._has_heard else "connected")
        self._has_heard = True
        self._told = -math.inf
        if gap:
            self._call(self._reconnected)

    def _tell_of(self, error: Exception, pause: float, *, hears: bool) -> None:
        now = time.monotonic()
        if now - self._told > _TELL_EVERY:
            self._told = now
            logger.warning("listens again in about %.1f s, polls meanwhile: %s", pause, error)
        if not hears:
            self._call(self._state, "failed")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        self._words.clear()
        self._pings = 0
        self._overflown = False
        self._wake = anyio.Event()
        connection = await self._address.dial()
        try:
            connection.add_termination_listener(self._on_termination)
            try:
                keep_alive(connection)
                for name in self._channels:
                    await connection.add_listener(name, self._on_notification)
            except DRIVER_ERRORS as error:
                raise self._address.translate(error) from error
            yield connection
        finally:
            connection.remove_termination_listener(self._on_termination)
            with anyio.CancelScope(shield=True):
                await _leave(connection)

    async def _hear_on(self, connection: Connection, early: Sequence[str]) -> NoReturn:
        try:
            for word in early:
                self._call(self._heard, word)
            await self._serve(connection)
        except Exception:
            # Now, and not when the connection is left: one that is half dead takes its time.
            self._call(self._state, "disconnected")
            raise
        finally:
            self.last_heard = -math.inf

    def _on_notification(self, _connection: Connection, _pid: int, _channel: str, payload: object) -> None:
        if len(self._words) < _MOST_UNHEARD:
            self._words.append(str(payload))
        else:
            self._overflown = True
        self._wake.set()

    def _on_termination(self, _connection: Connection) -> None:
        self._wake.set()

    async def _prove(self, connection: Connection) -> list[str]:
        """Wait for an echo of one's own, sent from the notifier's connection; return what else was heard till then.

        It proves the channel of all, too: what ends one LISTEN of a connection ends the other.
        Raises ListenerError if there is none: a pooler in transaction mode takes LISTEN and delivers nothing.
        """
        early: list[str] = []
        with anyio.move_on_after(self._settings.echo_timeout):
            self._ping()
            # Not any word: what is proven here is the way from this replica's own notifier.
            while self._awaited is not None:
                await self._something(connection)
                early.extend(self._take())
            return early
        raise ListenerError(self._settings.echo_timeout)

    async def _serve(self, connection: Connection) -> NoReturn:
        heard = quiet_until = -math.inf
        while True:
            if heard != self.last_heard:
                heard, quiet_until = self.last_heard, time.monotonic() + random.uniform(*_SILENCE)
            with anyio.move_on_after(max(0.0, quiet_until - time.monotonic())):
                await self._something(connection)
            if self._overflown:
                # What was dropped is found as after a reconnection: by looking at everything.
                logger.warning("more than %d bells were unheard: all is looked at", _MOST_UNHEARD)
                self._overflown = False
                self._call(self._reconnected)
            for word in self._take():
                self._call(self._heard, word)
            if self._pings >= _MOST_PINGS and time.monotonic() >= quiet_until:
                raise StoreUnavailableError(f"the listening connection heard none of {self._pings} pings")
            if heard == self.last_heard and time.monotonic() >= quiet_until:
                self._ping()
                quiet_until = time.monotonic() + _UNHEARD

    async def _something(self, connection: Connection) -> None:
        await self._wake.wait()
        self._wake = anyio.Event()
        if connection.is_closed():
            raise StoreUnavailableError("the listening connection was lost")

    def _take(self) -> list[str]:
        """What was heard, without the pings."""
        words = []
        if self._words:
            self.last_heard, self._pings = time.monotonic(), 0
        while self._words:
            word = self._words.popleft()
            if word.startswith(_PING):
                self._awaited = None if word == self._awaited else self._awaited
            else:
                words.append(word)
        return words

    def _ping(self) -> None:
        self._awaited = f"{_PING}{self._replica} {next(self._numbers)}"
        self._pings += 1
        self._ring(Bell(None, self._awaited))

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
