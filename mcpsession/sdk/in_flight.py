"""Requests that this replica runs, and cancellations that came before their request."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

import anyio
from mcp.shared.dispatcher import coerce_request_id
from mcp_types import RequestId

from mcpsession.model import SessionId
from mcpsession.records import Session

# A cancel may overtake its request through another connection or replica; past this it was for a finished one.
_EARLY = 2.0
_MOST_EARLY = 10_000


class Running(Protocol):
    """A request on its way."""

    @property
    def request_id(self) -> RequestId: ...
    @property
    def method(self) -> str: ...
    @property
    def began(self) -> float:
        """When it arrived, by time.monotonic()."""

    @property
    def cancelled(self) -> bool: ...
    @property
    def logged(self) -> bool:
        """Whether it has a stream in the log, or is about to have one."""

    def cancel(self, reason: str = "") -> None:
        """Nobody wants an answer any more."""

    def end(self, message: str) -> None:
        """The session has ended, or this replica goes: finish with an error."""

    def sever(self) -> None:
        """This replica was declared dead: stop the handler, write nothing more to socket or log."""


Key = tuple[SessionId, RequestId]


class InFlight:
    """By session and request id; `7` and `"7"` are one here, as in the SDK.

    A session and an earlier one that had the same id do not disturb each other.
    """

    def __init__(self) -> None:
        self._running: dict[SessionId, dict[int, dict[RequestId, Running]]] = {}
        self._arriving: dict[Key, list[Running]] = {}
        self._early: OrderedDict[Key, float] = OrderedDict()
        self._left: anyio.Event | None = None
        """Where somebody waits for what leaves."""

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Running]:
        return iter([exchange for session_id in self._running for exchange in self.of(session_id)])

    def of(self, session_id: SessionId) -> list[Running]:
        """What runs for one session."""
        return [exchange for running in self._running.get(session_id, {}).values() for exchange in running.values()]

    def sessions(self) -> list[SessionId]:
        """For which sessions something runs."""
        return list(self._running)

    def count(self, session: Session) -> int:
        """How many requests run for a session."""
        return len(self._running.get(session.id, {}).get(session.incarnation, ()))

    def arrive(self, session_id: SessionId, request_id: RequestId, exchange: Running) -> None:
        """Note a request whose session is not checked yet, so that a cancel finds it from the first moment."""
        key = (session_id, coerce_request_id(request_id))
        self._arriving.setdefault(key, []).append(exchange)
        self._apply_early(key, exchange)

    def leave_arriving(self, session_id: SessionId, request_id: RequestId, exchange: Running) -> None:
        key = (session_id, coerce_request_id(request_id))
        waiting = self._arriving.get(key, [])
        if exchange in waiting:
            waiting.remove(exchange)
        if not waiting:
            self._arriving.pop(key, None)

    def enter(self, session: Session, request_id: RequestId, exchange: Running) -> bool:
        """Claim the id in its session; False while another request with it runs here."""
        if self._arriving:
            self.leave_arriving(session.id, request_id, exchange)
        running = self._running.setdefault(session.id, {}).setdefault(session.incarnation, {})
        key = coerce_request_id(request_id)
        if running.setdefault(key, exchange) is not exchange:
            return False
        if self._early:
            self._apply_early((session.id, key), exchange)
        return True

    def _apply_early(self, key: Key, exchange: Running) -> None:
        heard = self._early.get(key)
        if heard is not None and time.monotonic() - heard < _EARLY and not exchange.cancelled:
            exchange.cancel()

    def leave(self, session: Session, request_id: RequestId, exchange: Running) -> None:
        incarnations, key = self._running.get(session.id, {}), coerce_request_id(request_id)
        running = incarnations.get(session.incarnation, {})
        if running.get(key) is exchange:
            del running[key]
        if not running:
            incarnations.pop(session.incarnation, None)
        if not incarnations:
            self._running.pop(session.id, None)
            if self._left is not None:
                self._left.set()
                self._left = None

    async def finished(self, session_id: SessionId | None = None) -> None:
        """Wait until nothing runs here, or nothing for one session."""
        while self._running if session_id is None else session_id in self._running:
            self._left = self._left or anyio.Event()
            await self._left.wait()

    def find(self, session: Session, request_id: RequestId) -> Running | None:
        """What runs here under exactly this id: `7` is not `"7"`."""
        running = self._running.get(session.id, {}).get(session.incarnation, {})
        found = running.get(coerce_request_id(request_id))
        return found if found is not None and _is(found, request_id) else None

    def logs(self, session_id: SessionId, request_id: RequestId) -> bool:
        """Whether a call that the log knows, or is about to, runs here under exactly this id."""
        return any(running.logged and _is(running, request_id) for running in self.of(session_id))

    def cancel(self, session_id: SessionId, request_id: RequestId) -> bool:
        """A client cancels: the request if it runs or arrives here; else that is remembered for a moment.

        False if there was nothing to cancel, any more.
        """
        key = (session_id, coerce_request_id(request_id))
        found = self._of_id(key)
        if not found:
            self._early[key] = time.monotonic()
            while len(self._early) > _MOST_EARLY or (
                self._early and time.monotonic() - next(iter(self._early.values())) > _EARLY
            ):
                self._early.popitem(last=False)
        return _cancel(found)

    def cancel_exactly(
        self, session_id: SessionId, request_id: RequestId, reason: str, *, incarnation: int | None = None
    ) -> bool:
        """The server's side cancels one that it knows to run somewhere: under exactly this id, now or not at all.

        With an incarnation not one of a later session with the same id.
        """
        found = self._of_id((session_id, coerce_request_id(request_id)), incarnation)
        return _cancel([exchange for exchange in found if _is(exchange, request_id)], reason)

    def _of_id(self, key: Key, incarnation: int | None = None) -> list[Running]:
        # What arrives has no session yet, so it can be of any.
        found = self._arriving.get(key, []).copy() if incarnation is None else []
        for of, running in self._running.get(key[0], {}).items():
            if incarnation in (None, of) and (exchange := running.get(key[1])):
                found.append(exchange)
        return found

    def end_session(self, session_id: SessionId, incarnation: int, message: str) -> None:
        """Finish all that runs for a session that has ended.

        Not what is about to: its session is not loaded yet, and may be a new one with the same id.
        """
        for exchange in list(self._running.get(session_id, {}).get(incarnation, {}).values()):
            exchange.end(message)

    def end_all(self, message: str) -> None:
        """Finish everything."""
        for exchange in self:
            exchange.end(message)

    def sever_all(self) -> None:
        """Cut everything: others finish these streams."""
        for exchange in self:
            exchange.sever()


def _cancel(found: list[Running], reason: str = "") -> bool:
    # Who sent the mail that cancels reads it, too.
    fresh = [exchange for exchange in found if not exchange.cancelled]
    for exchange in fresh:
        exchange.cancel(reason)
    return bool(fresh)


def _is(running: Running, request_id: RequestId) -> bool:
    # 7 is "7" to nobody but the SDK, and True is not 1.
    return type(running.request_id) is type(request_id) and running.request_id == request_id
