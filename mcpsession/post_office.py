"""Mail between replicas, and the bell.

Costs one insert a mail, one read and one delete a delivery, nothing while there is none. A bell wakes; the table
delivers. What a lost bell leaves lying is found at the next beat, within a second.

To one: at least once, handed over before it is deleted, and handlers are idempotent. To all: exactly once per replica
incarnation, in each publisher's order; within one read invalidations come before news.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NoReturn

from mcpsession.contracts import Doorbell, Mailbox
from mcpsession.model import Bell, Mail, MailKind, ReplicaId, SessionId, StreamId
from mcpsession.periodic import Alarm, patiently

logger = logging.getLogger(__name__)

Handler = Callable[[Mail], None]

# Mail that was handed over but could not be deleted is read again; its ids are remembered until it is gone.
_REMEMBERED = 10_000

_INVALIDATIONS: frozenset[MailKind] = frozenset({"changed", "ended"})


class PostOffice:
    """Posts for this replica, hands over to its handlers."""

    def __init__(self, mailbox: Mailbox, doorbell: Doorbell, me: Callable[[], ReplicaId]) -> None:
        self._mailbox = mailbox
        self._doorbell = doorbell
        self._me = me
        self._handlers: dict[MailKind, list[Handler]] = {}
        self._alarm = Alarm()
        self._handed: OrderedDict[int, None] = OrderedDict()
        self._inbox = True
        self._rung = 0
        self._read = 0
        self.proven_at = -math.inf
        """When the last look was sent that proves what is applied here: all broadcast mail that was there by then."""
        self.before = self.position = ""
        """How far this replica has read the broadcast mail, without and with the page that it is handing over."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when broadcast mail may have been missed: everything may have changed."""
        self.on_death: Callable[[], None] = lambda: None
        self.on_stream: Callable[[SessionId, StreamId], None] = lambda _s, _t: None
        self.on_hold: Callable[[SessionId, int | None], None] = lambda _s, _e: None
        self.on_acknowledged: Callable[[int, ReplicaId], None] = lambda _m, _r: None

    @property
    def behind(self) -> bool:
        """Whether broadcast mail was rung for and is not applied yet: what is cached may be the older truth."""
        return self._read != self._rung

    def on(self, kind: MailKind, handler: Handler) -> None:
        """Hand mail of this kind to `handler`, which must be idempotent and must not block."""
        self._handlers.setdefault(kind, []).append(handler)

    async def send(self, mail: Mail) -> bool:
        """Post to one replica and ring; False if it is unknown or dead. Durable when it returns."""
        if not await self._mailbox.send(mail):
            return False
        self._doorbell.ring(Bell(mail.recipient, "m"))
        return True

    async def broadcast(self, *mails: Mail) -> None:
        """Post to all, this replica included, and ring. Durable when it returns."""
        await self._mailbox.broadcast(mails)
        self.ring_all()

    def ring_all(self) -> None:
        """Tell all replicas that there is broadcast mail."""
        self._doorbell.ring(Bell(None, "n"))

    def ring_stream(self, replica: ReplicaId, session_id: SessionId, stream_id: StreamId) -> None:
        """Tell the reader of a stream that it has grown."""
        if replica == self._me():
            self.on_stream(session_id, stream_id)
        else:
            self._doorbell.ring(Bell(replica, f"s {session_id} {stream_id}"))

    def ring_hold(self, session_id: SessionId, epoch: int) -> None:
        """Tell all replicas that a session's standalone stream is not theirs any more, but of who took this epoch."""
        self.on_hold(session_id, epoch)
        self._doorbell.ring(Bell(None, f"h {session_id} {epoch}"))

    def ring_hang_up(self, session_id: SessionId) -> None:
        """Tell whoever holds a session's standalone stream to end it. A bell that is lost leaves it open."""
        self._doorbell.ring(Bell(None, f"h {session_id}"))

    def ring_death(self) -> None:
        """Tell all replicas that one is dead and its streams are finished: their readers look at once."""
        self._doorbell.ring(Bell(None, "d"))

    def acknowledge(self, mail: Mail) -> None:
        """Tell a mail's sender that it was applied here."""
        if mail.sender != self._me():
            self._doorbell.ring(Bell(mail.sender, f"a {mail.id} {self._me()}"))

    def hear(self, word: str) -> None:
        """Take one bell's word."""
        match word.split(" "):
            case ["m"]:
                self.wake()
            case ["n"]:
                # Of the inbox it says nothing.
                self._rung += 1
                self._alarm.ring()
            case ["d"]:
                self.on_death()
            case ["s", session_id, stream_id]:
                self.on_stream(session_id, stream_id)
            case ["h", session_id]:
                self.on_hold(session_id, None)
            case ["h", session_id, epoch] if epoch.isdecimal():
                self.on_hold(session_id, int(epoch))
            case ["a", mail_id, replica] if mail_id.isdecimal():
                self.on_acknowledged(int(mail_id), replica)
            case _:
                logger.warning("a bell with an unknown word of %d characters was ignored", len(word))

    def wake(self) -> None:
        """Look for mail soon."""
        self._inbox = True
        self._alarm.ring()

    def look_out(self, *, mail: bool, news: bool, asked: float) -> None:
        """Take what a beat saw that was sent at `asked`: mail in the inbox, broadcast mail past the position."""
        if news:
            # As if it were rung for: until it is applied, what is cached may be the older truth.
            self._rung += 1
        else:
            self._proven(asked)
        if mail or news:
            self.wake()

    async def start(self) -> None:
        """Take the present position: mail from before is not for this incarnation."""
        asked = time.monotonic()
        self.before = self.position = await self._mailbox.position()
        self._proven(asked)

    async def run(self) -> NoReturn:
        """Deliver until cancelled."""
        await patiently(lambda: self._alarm.answer(self.run_once), name="the post office")

    async def run_once(self) -> None:
        """Deliver what lies there now."""
        await self._read_broadcasts()
        if not self._inbox:
            return
        # What is rung for from here on needs a read that begins later.
        self._inbox = False
        try:
            await self._read_inbox()
        except BaseException:
            self._inbox = True
            raise

    async def _read_inbox(self) -> None:
        while inbox := await self._mailbox.inbox(self._me()):
            for mail in inbox:
                if mail.id not in self._handed:
                    self._hand_over(mail)
                    self._handed[mail.id] = None
            while len(self._handed) > _REMEMBERED:
                self._handed.popitem(last=False)
            await self._mailbox.delete([mail.id for mail in inbox])

    async def _read_broadcasts(self) -> None:
        # Whatever is rung for from here on needs a read that begins later.
        rung = self._rung
        more = True
        while more:
            asked = time.monotonic()
            page = await self._mailbox.news(self.position)
            if page is None:
                logger.warning("the position in the broadcast mail was lost: all is taken for changed")
                self.before = self.position = await self._mailbox.position()
                self.on_lost()
                self._proven(asked)
                break
            # The position moves first: a handler may ask where the replica stands.
            self.before, self.position, more = self.position, page.position, page.more
            for mail in _invalidations_first(page.mails):
                self._hand_over(mail)
            if not more:
                self._proven(asked)
        self._read = rung

    def _proven(self, asked: float) -> None:
        self.proven_at = max(self.proven_at, asked)

    def _hand_over(self, mail: Mail) -> None:
        for handler in self._handlers.get(mail.kind, ()):
            try:
                handler(mail)
            except Exception:  # the boundary: one bad mail must not stop the others
                logger.exception("mail %d (%s) could not be applied", mail.id, mail.kind)


def _invalidations_first(mails: Sequence[Mail]) -> list[Mail]:
    return sorted(mails, key=lambda mail: mail.kind not in _INVALIDATIONS)
