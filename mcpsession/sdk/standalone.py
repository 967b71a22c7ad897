"""GET without a request's cursor: the session's standalone stream, at one socket in the whole cluster.

Two things arrive on it: messages sent to this session (its own events, durable), and news for all or for this session
(broadcast mail). Its cursor is therefore a pair, and every frame's id carries both. At least once: what was on its way
when a socket died comes again. News that arrived while no stream was open comes as the newest of each kind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress

import anyio
from starlette.types import Receive, Send

from mcpsession.errors import HoldRefusedError, LayerClosedError, StoreUnavailableError
from mcpsession.model import STANDALONE, Hold, SessionId
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.outbound import gone, may_write
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.standalone_news import Place, StandaloneNews
from mcpsession.tails import Tail

logger = logging.getLogger(__name__)

_PAGE = 100
# How long the previous holder may take to say how far it got; then it is taken for gone.
_HANDOVER = 1.0
# Clients before did not know frames that carry an id and nothing else.
_PRIMED_SINCE = "2025-11-25"


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
        self._place = Place()
        # How far the socket took it, and how far the store knows of that.
        self._delivered = self._saved = self._place.pair
        self._settled = False
        self._epoch = 0
        self._tail: Tail | None = None
        self._doubted = self._looks = False
        self._news = StandaloneNews(parts, session, self._place, write=self._write, wake=self._wake)

    @property
    def held(self) -> tuple[SessionId, int, int] | None:
        """The session, the hold's epoch and the last event that was sent; None before the first look for events."""
        return (self.session.id, self._epoch, self._place.seq) if self._looks else None

    def doubt(self) -> None:
        """The stream has grown, or is not this one's any more."""
        self._doubted = True
        if self._tail is not None:
            self._tail.ring()

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
        # The older socket of this very replica lets go here; a remote one at the bell.
        with parts.standalones.holding(STANDALONE, self), parts.tails.reading(session_id, STANDALONE) as tail:
            self._tail = tail
            unlisten = parts.broadcaster.listen(self._news.hear)
            try:
                if self.session in parts.ended:
                    # Ended while it was on its way here; what was taken may be a new session's with the same id.
                    await wire.refuse(self._send, 404, wire.NOT_FOUND)
                    return
                await self._hold(hold, cursor, receive, tail)
            finally:
                unlisten()
                with anyio.CancelScope(shield=True), suppress(LayerClosedError):
                    await parts.endings.finish(lambda: self._release(hold.epoch))

    async def _take(self) -> Hold | None:
        """Take the stream. If whoever asks is cancelled meanwhile, it is let go again."""
        taken: list[Hold] = []
        abandoned = False

        # Cut off in the middle it might be taken all the same, and nobody would let it go again.
        async def take() -> Hold | None:
            hold = await self._take_as_me()
            if hold is not None:
                taken.append(hold)
            if hold is not None and abandoned:
                await self._release(hold.epoch)
            return hold

        try:
            return await self._parts.endings.finish(take)
        except BaseException:
            abandoned = True
            if taken:
                with anyio.CancelScope(shield=True), suppress(LayerClosedError):
                    await self._parts.endings.finish(lambda: self._release(taken[0].epoch))
            raise

    async def _take_as_me(self) -> Hold | None:
        parts, session_id = self._parts, self.session.id
        while True:
            me = parts.heartbeat.replica_id
            hold = await parts.holds.take(session_id, me)
            # Declared dead meanwhile, this replica goes on under another id; a hold in the dead one's name is none.
            if me == parts.heartbeat.replica_id:
                break
        if hold is not None:
            self._epoch = hold.epoch
            if not hold.settled:
                # All: the previous one may have died before it could tell from whom it took the stream.
                parts.post_office.ring_hold(session_id, hold.epoch)
        return hold

    async def _hold(self, hold: Hold, cursor: wire.Cursor | None, receive: Receive, tail: Tail) -> None:
        with self._socket:
            self._own(await self._settle(hold, tail))
            self._place.seq, self._place.position = self._saved if cursor is None else (cursor.seq, cursor.position)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, receive)
                await self._stream(tail, hold.epoch)
            return
        # A peer that does not read must not keep the next holder waiting until it takes this one for silent.
        with anyio.move_on_after(_HANDOVER / 2, shield=True):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _own(self, hold: Hold) -> None:
        """Nobody else writes to the stream any more: however this ends, it says how far the stream came."""
        self._settled = True
        self._saved = self._delivered = (hold.delivered_seq, hold.delivered_news)

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

    def _wake(self) -> None:
        if self._tail is not None:
            self._tail.wake()

    async def _stream(self, tail: Tail, epoch: int) -> None:
        # More than the last holder has saved is had by the client of one that died, or of a log that was lost.
        while self._place.seq > self._saved[0] and await self._is_from_elsewhere():
            pass
        if self.session.protocol_version >= _PRIMED_SINCE:
            # A cursor at once: should what follows be lost on the way, the client comes back with this one.
            await self._write([wire.priming(self._place.event_id, None)])
        await self._news.tell()
        self._looks, alive_at = True, anyio.current_time()
        while True:
            if tail.rung:
                tail.rung = False
                if await self._was_taken():
                    self._socket.cancel()
                while await self._write_events():
                    pass
            await self._news.tell()
            if (now := anyio.current_time()) - alive_at >= self._parts.settings.keep_alive:
                alive_at = now
                await self._stay_alive(epoch)
            await tail.wait(max(0.0, alive_at + self._parts.settings.keep_alive - anyio.current_time()))

    async def _was_taken(self) -> bool:
        """Whether another replica took the stream over; asked only where a look gave reason to."""
        if not self._doubted:
            return False
        try:
            holder = await self._parts.holds.holder(self.session.id)
        except StoreUnavailableError as error:
            logger.warning("a standalone stream cannot ask whether it is still its own: %s", error)
            return False
        self._doubted = False
        return holder != self._parts.heartbeat.replica_id

    async def _write_events(self) -> bool:
        """Send the next page of the session's own events; True if there may be more."""
        try:
            state = await self._parts.log.read(self.session.id, STANDALONE, self._place.seq, _PAGE)
        except StoreUnavailableError as error:
            logger.warning("a standalone stream waits: %s", error)
            await anyio.sleep(self._parts.settings.poll)
            return True
        if state is None or (state.finished and not state.events):
            self._socket.cancel()
            return False
        if state.last_seq < self._place.seq:
            return await self._go_back(state.last_seq)
        frames = []
        for event in state.events:
            # A hole is what the retention took; nothing here is owed an answer, so the rest goes on.
            self._place.seq = event.seq
            if event.message:
                frames.append(wire.event(self._place.event_id, event.message))
        await self._write(frames)
        return self._place.seq < state.last_seq and bool(state.events)

    async def _is_from_elsewhere(self) -> bool:
        """Whether it has gone back, or the store was away: then it asks again."""
        try:
            state = await self._parts.log.read(self.session.id, STANDALONE, self._place.seq, 1)
        except StoreUnavailableError as error:
            logger.warning("a standalone stream waits: %s", error)
            await anyio.sleep(self._parts.settings.poll)
            return True
        return state is not None and state.last_seq < self._place.seq and await self._go_back(state.last_seq)

    async def _go_back(self, last_seq: int) -> bool:
        """The client has numbers that the log has not: it had them from a primary whose last commits are lost.

        Other events have these numbers now, or will. So it goes on from what this log knows to be delivered (if not
        even that can be true, from the beginning), and its client is told that everything changed. True.
        """
        logger.warning("a standalone stream was at event %d of %d: it goes back", self._place.seq, last_seq)
        try:
            hold = await self._parts.holds.settle(self.session.id, self._epoch, force=True)
        except StoreUnavailableError as error:
            logger.warning("a standalone stream waits: %s", error)
            await anyio.sleep(self._parts.settings.poll)
            return True
        if hold is None:
            # Nor has this log the hold; the client comes back and takes it anew.
            self._socket.cancel()
            await anyio.lowlevel.checkpoint()
            return True
        self._saved = (hold.delivered_seq if hold.delivered_seq <= last_seq else 0, hold.delivered_news)
        self._place.seq, self._place.position = self._delivered = self._saved
        self._news.begin_again()
        return True

    async def _write(self, frames: Sequence[bytes]) -> None:
        if frames:
            await may_write(self._parts, self._send)
            await self._send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
        self._delivered = self._place.pair

    async def _stay_alive(self, epoch: int) -> None:
        self._parts.touches.note(self.session.id)
        if self._news.keep_fresh() and self.session.protocol_version >= _PRIMED_SINCE:
            await self._write([wire.priming(self._place.event_id, None)])
        else:
            await self._send({"type": "http.response.body", "body": wire.KEEP_ALIVE, "more_body": True})
            self._delivered = self._place.pair
        if self._saved == self._delivered:
            return
        try:
            if not await self._parts.holds.save(self.session.id, epoch, *self._delivered):
                self._socket.cancel()
            self._saved = self._delivered
        except StoreUnavailableError as error:
            logger.warning("how far a standalone stream got could not be saved: %s", error)

    async def _release(self, epoch: int) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5.0):
            try:
                if not self._settled:
                    hold = await self._outwait(epoch)
                    if hold is None:
                        # Somebody else waits for the one before, or the session has ended.
                        return
                    self._own(hold)
                waiting = await self._parts.holds.release(self.session.id, epoch, *self._delivered)
                if waiting is not None:
                    self._parts.post_office.ring_stream(waiting, self.session.id, STANDALONE)
            except StoreUnavailableError as error:
                logger.warning("a standalone stream could not be released: %s; the next holder waits for it", error)

    async def _outwait(self, epoch: int) -> Hold | None:
        """Who leaves before the previous holder has let go waits for that as well: until then nobody says how far the
        stream came, and the next one would wait for this one in vain."""
        deadline = anyio.current_time() + _HANDOVER
        while True:
            force = anyio.current_time() >= deadline
            hold = await self._parts.holds.settle(self.session.id, epoch, force=force)
            if hold is None or hold.settled:
                return hold
            await anyio.sleep(0.05)
