"""Bells over LISTEN and NOTIFY: they wake, they never deliver.

Costs two connections a replica, the notifier's and the ear's, and at rest a statement every two seconds, of all
replicas together: the ears' ping. A bell rings at once when nothing is in flight; under load the next batch forms
meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import anyio
import anyio.abc

from mcpsession.errors import StoreUnavailableError
from mcpsession.model import Bell, ListenerState, ReplicaId
from mcpsession.postgres.address import Address
from mcpsession.postgres.ear import Ear
from mcpsession.postgres.link import Link
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)

# No row: the server takes no writes, so that none of it is heard by those who write to another one.
NOTIFY = """
SELECT pg_notify(bells.channel, bells.word)
FROM unnest($1::text[], $2::text[]) AS bells (channel, word)
WHERE current_setting('transaction_read_only') = 'off'
"""

# So many unrung ones mean that the store is away; the oldest go, their readers have polled long since.
_MOST_UNRUNG = 10_000
_BATCH = 1000
_LONGEST_WORD = 7_999


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
        self._ears: list[Ear] = []
        self._entered = False

    def ring(self, bell: Bell) -> None:
        if not _can_carry(bell.word):
            logger.error("a bell of %d characters was not rung: it must carry ids only", len(bell.word))
            return
        self._unrung.append((channel(self._settings, bell.recipient), bell.word))
        self._wake.set()

    async def ring_on(self) -> NoReturn:
        """Ring what is to be rung, until cancelled."""
        self._entered = False
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._unrung:
                # Equal bells of one batch are one.
                batch = list(dict.fromkeys(self._unrung.popleft() for _ in range(min(_BATCH, len(self._unrung)))))
                try:
                    await self._notify(batch)
                    self._failing = False
                except Exception as error:  # the boundary: one bad batch must not silence this replica
                    self._keep(batch, error)
                    await anyio.sleep(random.uniform(0.1, 0.3))

    async def _notify(self, batch: Sequence[tuple[str, str]]) -> None:
        channels, words = [bell[0] for bell in batch], [bell[1] for bell in batch]
        async with self._notifier.connection() as connection:
            # A demoted primary hears and answers; whoever wrote nothing would stay there for ever. The next connection
            # is one to who takes writes, and the ear, which hears no echo from there any more, follows.
            if not await connection.fetch(NOTIFY, channels, words):
                raise StoreUnavailableError("it is read-only (a standby, or a primary that was demoted)")

    def _keep(self, batch: Sequence[tuple[str, str]], error: Exception) -> None:
        """Ring again what an absent store did not take; a bell that was heard after all wakes once more, no harm."""
        again = isinstance(error, StoreUnavailableError)
        if not self._failing:
            logger.warning("%d bells %s: %s", len(batch), "wait" if again else "were lost, their readers poll", error)
        self._failing = True
        room = _MOST_UNRUNG - len(self._unrung)
        if again and room > 0:
            self._unrung.extendleft(reversed(batch[-room:]))

    @asynccontextmanager
    async def listening(
        self,
        replica: ReplicaId,
        *,
        heard: Callable[[str], None],
        reconnected: Callable[[], None],
        state: Callable[[ListenerState], None] = lambda _: None,
    ) -> AsyncIterator[None]:
        ear = Ear(
            replica,
            [channel(self._settings, replica), channel(self._settings, None)],
            self._address,
            self._settings,
            ring=self.ring,
            heard=heard,
            reconnected=reconnected,
            state=state,
        )
        self._ears.append(ear)
        try:
            # A replica that runs and goes on under a new id is not stopped by what would not have let it start.
            patient = self._entered or self._settings.listener == "optional"
            async with beside(lambda *, task_status: ear.listen_on(task_status, patient=patient)):
                self._entered = True
                yield
        finally:
            self._ears.remove(ear)

    def last_heard(self) -> float:
        return min((ear.last_heard for ear in self._ears), default=-math.inf)


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


def _can_carry(word: str) -> bool:
    """Whether Postgres takes it; one that it does not would take its whole batch with it."""
    try:
        return len(word.encode()) <= _LONGEST_WORD and "\0" not in word
    except UnicodeEncodeError:
        return False
