"""GET without a request's cursor: the session's standalone stream, at one socket in the whole cluster.

Two things arrive on it: messages sent to this session (its own events, durable), and news for all (broadcast mail). Its
cursor is therefore a pair, and every frame's id carries both. At least once: what was on its way when a socket died
comes again. News that arrived while no stream was open comes collapsed to the newest of each topic.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

import anyio
from starlette.types import Receive, Send

from mcpsession.broadcaster import EVERYTHING_CHANGED, decode
from mcpsession.errors import HoldRefusedError, StoreUnavailableError
from mcpsession.model import STANDALONE, Hold, Mail, News, has_seen
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.dispatch import notification
from mcpsession.sdk.outbound import gone, may_write
from mcpsession.sdk.parts import Parts
from mcpsession.tails import Tail

logger = logging.getLogger(__name__)

_PAGE = 100
# How long the previous holder may take to say how far it got; then it is taken for gone.
_HANDOVER = 1.0
# The bell can be lost; then events wait for this look. Every held stream costs one read of it.
_SLOW_LOOK = 15.0
# Topics that a session hears without having subscribed to anything.
_FOR_ALL = frozenset(news.method for news in EVERYTHING_CHANGED)
_MOST_NEWS = 256


class Standalone:
    """One session's GET stream, while this replica holds it."""

    request_id = None
    """It answers no request."""

    def __init__(self, parts: Parts, session: Session, send: Send) -> None:
        self.session = session
        self.began = time.monotonic()
        self._parts = parts
        self._send = send
        self._socket = anyio.CancelScope()
        self._seq = 0
        self._position = ""
        self._saved = (0, "")
        # News that was heard, with its transaction, and the position in the broadcast mail that it brought this
        # replica to.
        self._news: deque[tuple[int, News, str]] = deque()
        self._overflowed = False
        self._settled = False
        self._epoch = 0
        self._tail: Tail | None = None

    def let_go(self, below: int | None = None) -> None:
        """Another socket takes the stream, or the session ends, or this replica goes."""
        # A bell may come late, for an older hold than this one.
        if below is None or self._epoch < below:
            self._socket.cancel()

    def end(self) -> None:
        """The session has ended; a stream of notifications has no last word."""
        self._socket.cancel()

    async def serve(self, cursor: wire.Cursor | None, receive: Receive) -> None:
        """Hold the stream until the client goes or somebody takes it."""
        parts, session_id = self._parts, self.session.id
        try:
            hold = await self._take()
        except HoldRefusedError as error:
            await wire.refuse(self._send, 409, f"Conflict: {error}", retry_after=10)
            return
        if hold is None:
            await wire.refuse(self._send, 404, wire.NOT_FOUND)
            return
        self._epoch = hold.epoch
        if hold.previous is not None:
            parts.post_office.ring_hold(hold.previous, session_id, hold.epoch)
        # The older socket of this very replica lets go here; a remote one at the bell.
        with parts.standalones.holding(STANDALONE, self), parts.tails.reading(session_id, STANDALONE) as tail:
            if self.session in parts.ended:
                # Ended while it was on its way here; what was taken may be a new session's with the same id.
                await wire.refuse(self._send, 404, wire.NOT_FOUND)
                return
            self._tail = tail
            unsubscribe = parts.broadcaster.subscribe(self._hear)
            try:
                await self._hold(hold, cursor, receive, tail)
            finally:
                unsubscribe()
                await self._release(hold.epoch)

    async def _take(self) -> Hold | None:
        while True:
            me = self._parts.heartbeat.replica_id
            hold = await self._parts.holds.take(self.session.id, me)
            # Declared dead meanwhile, this replica goes on under another id; a hold in the dead one's name is none.
            if me == self._parts.heartbeat.replica_id:
                return hold

    async def _hold(self, hold: Hold, cursor: wire.Cursor | None, receive: Receive, tail: Tail) -> None:
        with self._socket:
            settled = await self._settle(hold, tail)
            self._settled = True
            self._seq, self._position = settled.delivered_seq, settled.delivered_news
            if cursor is not None:
                self._seq, self._position = cursor.seq, cursor.position
            self._saved = (settled.delivered_seq, settled.delivered_news)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, receive)
                await self._stream(tail, hold.epoch)
            return
        with anyio.move_on_after(1.0, shield=True):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _settle(self, hold: Hold, tail: Tail) -> Hold:
        """Wait until the previous holder has let go (or is dead, or silent), so that no message goes to two."""
        headers = wire.stream_headers(self.session.id)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        retry_ms = self._parts.limits.retry_ms
        first = wire.KEEP_ALIVE if retry_ms is None else wire.retry(retry_ms)
        await self._send({"type": "http.response.body", "body": first, "more_body": True})
        deadline = anyio.current_time() + _HANDOVER
        while not hold.settled:
            await tail.wait(0.05)
            force = anyio.current_time() >= deadline
            try:
                looked = await self._parts.holds.settle(self.session.id, hold.epoch, force=force)
            except StoreUnavailableError as error:
                logger.warning("a standalone stream waits: %s", error)
                await anyio.sleep(self._parts.settings.poll)
                continue
            if looked is None:
                self._socket.cancel()
                await anyio.lowlevel.checkpoint()
                return hold
            hold = looked
        return hold

    async def _watch(self, receive: Receive) -> None:
        await gone(receive)
        self._socket.cancel()

    def _hear(self, news: News, mail: Mail) -> None:
        # This replica may hear later what the stream was caught up with, or what is older than the session.
        if news.method not in _FOR_ALL or has_seen(self._position, mail.xid):
            return
        if len(self._news) >= _MOST_NEWS:
            self._news.clear()
            self._overflowed = True
        self._news.append((mail.xid, news, self._parts.post_office.position))
        if self._tail is not None:
            self._tail.wake()

    async def _stream(self, tail: Tail, epoch: int) -> None:
        if self.session.protocol_version >= "2025-11-25":
            # A cursor at once: should what follows be lost on the way, the client comes back with this one.
            await self._write([wire.priming(wire.standalone_event_id(self._seq, self._position), None)])
        await self._catch_up()
        look_at, alive_at = 0.0, anyio.current_time()
        while True:
            now = anyio.current_time()
            rung = tail.rung or now >= look_at
            if rung:
                tail.rung = False
                look_at = now + _SLOW_LOOK
                while await self._write_events():
                    pass
            await self._write_news()
            if now - alive_at >= self._parts.settings.keep_alive:
                alive_at = now
                await self._stay_alive(epoch)
            await tail.wait(min(_SLOW_LOOK, self._parts.settings.keep_alive))

    async def _write_events(self) -> bool:
        """Send the next page of the session's own events; True if there may be more."""
        try:
            state = await self._parts.log.read(self.session.id, STANDALONE, self._seq, _PAGE)
        except StoreUnavailableError as error:
            logger.warning("a standalone stream waits: %s", error)
            await anyio.sleep(self._parts.settings.poll)
            return True
        if state is None or (state.finished and not state.events):
            self._socket.cancel()
            return False
        frames = []
        for event in state.events:
            # A hole is what the retention took; nothing here is owed an answer, so the rest goes on.
            self._seq = event.seq
            if event.message:
                frames.append(wire.event(wire.standalone_event_id(self._seq, self._position), event.message))
        await self._write(frames)
        return self._seq < state.last_seq and bool(state.events)

    async def _catch_up(self) -> None:
        """Send what was published while no stream was open, the newest of each topic."""
        while True:
            try:
                caught = await self._parts.mailbox.news(self._position, only_news=True)
                position = caught[1] if caught else await self._parts.mailbox.position()
                break
            except StoreUnavailableError as error:
                logger.warning("a standalone stream waits: %s", error)
                await anyio.sleep(self._parts.settings.poll)
        if caught is None:
            missed: Sequence[News] = EVERYTHING_CHANGED
        else:
            decoded = [news for mail in caught[0] if (news := decode(mail.body)) and news.method in _FOR_ALL]
            missed = list({news.topic: news for news in decoded}.values())
            self._news = deque(item for item in self._news if not has_seen(position, item[0]))
        await self._tell([(news, position) for news in missed])
        self._position = position

    async def _write_news(self) -> None:
        if self._overflowed:
            self._overflowed = False
            await self._catch_up()
        heard, self._news = self._news, deque()
        await self._tell([(news, position) for _, news, position in heard])

    async def _tell(self, items: Sequence[tuple[News, str]]) -> None:
        """Send news. A frame's id says that all news up to its position has arrived, so only the last one of a
        position may carry it."""
        frames = []
        for number, (news, position) in enumerate(items):
            if number + 1 == len(items) or items[number + 1][1] != position:
                self._position = position
            message = wire.dump(notification(news.method, news.params or None))
            frames.append(wire.event(wire.standalone_event_id(self._seq, self._position), message))
        await self._write(frames)

    async def _write(self, frames: Sequence[bytes]) -> None:
        if frames:
            await may_write(self._parts, self._send)
            await self._send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})

    async def _stay_alive(self, epoch: int) -> None:
        self._parts.touches.note(self.session.id)
        await self._send({"type": "http.response.body", "body": wire.KEEP_ALIVE, "more_body": True})
        if self._saved == (self._seq, self._position):
            return
        try:
            if not await self._parts.holds.save(self.session.id, epoch, self._seq, self._position):
                self._socket.cancel()
            self._saved = (self._seq, self._position)
        except StoreUnavailableError as error:
            logger.warning("how far a standalone stream got could not be saved: %s", error)

    async def _release(self, epoch: int) -> None:
        if not self._settled:
            # Nothing was delivered, and the position of the holder before is not ours to write.
            return
        with anyio.CancelScope(shield=True), anyio.move_on_after(5.0):
            try:
                waiting = await self._parts.holds.release(self.session.id, epoch, self._seq, self._position)
                if waiting is not None:
                    self._parts.post_office.ring_stream(waiting, self.session.id, STANDALONE)
            except StoreUnavailableError as error:
                logger.warning("a standalone stream could not be released: %s; the next holder waits for it", error)
