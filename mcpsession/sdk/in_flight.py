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

# A cancel may overtake its request through another connection or replica; past this it was for a finished one.
_EARLY = 2.0
_MOST_EARLY = 10_000


class Cancellable(Protocol):
    def cancel(self) -> None:
        """The client wants no answer any more."""

    def end(self, message: str) -> None:
        """The session has ended, or this replica goes: finish with an error."""

    def sever(self) -> None:
        """This replica was declared dead: stop the handler, write nothing more to socket or log."""


Key = tuple[SessionId, RequestId]


class InFlight:
    """By session and request id; `7` and `"7"` are one here, as in the SDK."""

    def __init__(self) -> None:
        self._running: dict[SessionId, dict[RequestId, Cancellable]] = {}
        self._arriving: dict[Key, list[Cancellable]] = {}
        self._early: OrderedDict[Key, float] = OrderedDict()
        self._emptied = anyio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._running.values()))

    def __iter__(self) -> Iterator[Cancellable]:
        return iter([exchange for running in self._running.values() for exchange in running.values()])

    def arrive(self, session_id: SessionId, request_id: RequestId, exchange: Cancellable) -> None:
        """Note a request whose session is not checked yet, so that a cancel finds it from the first moment."""
        key = (session_id, coerce_request_id(request_id))
        self._arriving.setdefault(key, []).append(exchange)
        if (heard := self._early.get(key)) is not None and time.monotonic() - heard < _EARLY:
            exchange.cancel()

    def leave_arriving(self, session_id: SessionId, request_id: RequestId, exchange: Cancellable) -> None:
        key = (session_id, coerce_request_id(request_id))
        waiting = self._arriving.get(key, [])
        if exchange in waiting:
            waiting.remove(exchange)
        if not waiting:
            self._arriving.pop(key, None)

    def enter(self, session_id: SessionId, request_id: RequestId, exchange: Cancellable) -> bool:
        """Claim the id in its session; False while another request with it runs here."""
        self.leave_arriving(session_id, request_id, exchange)
        running = self._running.setdefault(session_id, {})
        return running.setdefault(coerce_request_id(request_id), exchange) is exchange

    def leave(self, session_id: SessionId, request_id: RequestId, exchange: Cancellable) -> None:
        running, key = self._running.get(session_id, {}), coerce_request_id(request_id)
        if running.get(key) is exchange:
            del running[key]
        if not running:
            self._running.pop(session_id, None)
        if not self._running:
            emptied, self._emptied = self._emptied, anyio.Event()
            emptied.set()

    async def finished(self) -> None:
        """Wait until nothing runs here."""
        while self._running:
            await self._emptied.wait()

    def cancel(self, session_id: SessionId, request_id: RequestId) -> bool:
        """Cancel the request if it runs or arrives here; else remember that for a moment."""
        key = (session_id, coerce_request_id(request_id))
        found = self._arriving.get(key, []).copy()
        if running := self._running.get(session_id, {}).get(key[1]):
            found.append(running)
        for exchange in found:
            exchange.cancel()
        if not found:
            self._early[key] = time.monotonic()
            while len(self._early) > _MOST_EARLY or (
                self._early and time.monotonic() - next(iter(self._early.values())) > _EARLY
            ):
                self._early.popitem(last=False)
        return bool(found)

    def end_session(self, session_id: SessionId, message: str) -> None:
        """Finish all that runs for one session, and what is about to."""
        for (session, _), waiting in list(self._arriving.items()):
            if session == session_id:
                for exchange in waiting.copy():
                    exchange.end(message)
        for exchange in list(self._running.get(session_id, {}).values()):
            exchange.end(message)

    def end_all(self, message: str) -> None:
        """Finish everything."""
        for exchange in self:
            exchange.end(message)

    def sever_all(self) -> None:
        """Cut everything: others finish these streams."""
        for exchange in self:
            exchange.sever()
