"""`layer.control`: the application's own messages to its replicas, applied by each of them, also when it was away.

Costs a short transaction a message, on whichever replica, and one read on each replica that hears of it. A message is a
numbered row; the mail beside it only says that there is one more, so a lost one delays and loses nothing.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import anyio

from mcpsession.calling import call
from mcpsession.errors import LayerClosedError, NewsError
from mcpsession.model import ControlMessage, ReplicaId
from mcpsession.news import as_json, as_object, check_method
from mcpsession.news_contracts import ControlPlace, ControlRows
from mcpsession.periodic import Alarm, patiently
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry
from mcpsession.texts import fault_of

logger = logging.getLogger(__name__)

ControlHandler = Callable[[Mapping[str, Any]], object]
"""A function of the params, sync (it runs in a thread) or async."""

H = TypeVar("H", bound=ControlHandler)

_PAGE = 100
_LONGEST_KEY = 200
# A handler that runs when the layer ends has so long to finish.
_END_WITHIN = 5.0


class ControlLog:
    """Sends to all other replicas; applies here what they send, one after the other, in order of the versions."""

    def __init__(
        self,
        rows: ControlRows,
        settings: Settings,
        *,
        me: Callable[[], ReplicaId],
        ring: Callable[[], None],
        telemetry: Telemetry,
    ) -> None:
        self._rows = rows
        self._max_bytes = settings.max_news_bytes
        self._timeout = settings.handler_timeout
        self._me = me
        self._ring = ring
        self._telemetry = telemetry
        self._handlers: dict[str, list[ControlHandler]] = {}
        self._place = ControlPlace()
        self._catching_up = True
        """Of the messages past the place only those are wanted that no later one has replaced."""
        # Under whatever ids this replica has sent since it started: it may have been reborn meanwhile.
        self._mine: set[ReplicaId] = set()
        self._alarm = Alarm()
        self._open = self._closing = False
        self._following = False
        self._call: anyio.CancelScope | None = None
        self._call_over = anyio.Event()

    def __repr__(self) -> str:
        return f"<ControlLog, applied up to {self.applied}: {', '.join(sorted(self._handlers)) or 'no handlers'}>"

    # For the application

    @property
    def applied(self) -> int:
        """The version up to which this replica has applied the log; its own messages, and unknown ones, are passed."""
        return self._place.version

    async def send(self, method: str, params: Mapping[str, Any] | None = None, *, key: str = "") -> int:
        """Have all other replicas apply a message; returns its version: 1, 2, 3, … in the namespace.

        Durable when it returns. Every replica that runs applies it, once without faults and at least once with them,
        also if it is cut off now. One that starts later applies it, unless there is a newer one of this method and key.
        The sender does not.

        Raises:
            NewsError: the method, params or key are none, or have more than `max_news_bytes`.
            StoreUnavailableError: it may have been recorded, or not.
            LayerClosedError: the layer is not running.
        """
        _check(method, key)
        text = as_json(as_object({} if params is None else params), self._max_bytes)
        self._check_open()
        self._mine.add(me := self._me())
        version = await self._rows.append(method, key, text, sender=me)
        self._ring()
        return version

    async def forget(self, method: str, key: str = "") -> bool:
        """Let replicas that start from now on not apply the newest message of a method and key; False if there is none.

        Replicas that run apply it all the same. Raises as `send`.
        """
        _check(method, key)
        self._check_open()
        return await self._rows.forget(method, key)

    def on(self, method: str) -> Callable[[H], H]:
        """Register the decorated function for a method: it is called with the params of each such message.

        Several for one method are called in the order of their registration. One that raises, or takes longer than
        `handler_timeout`, is logged, and the log goes on. Register before the layer starts: what came before is not
        told later.

        Raises TypeError for what cannot be called.
        """
        if callable(method):
            raise TypeError('name the method that the handler is for: @layer.control.on("reload")')
        _check(method, "")

        def register(handler: H) -> H:
            if not _takes_one(handler):
                raise TypeError(f"a control handler is a function of the params, sync or async, not {handler!r}")
            self._handlers.setdefault(method, []).append(handler)
            return handler

        return register

    def _check_open(self) -> None:
        if not self._open:
            raise LayerClosedError

    # For the layer

    async def start(self) -> None:
        """Apply the newest message of each method and key; `run` is to follow.

        Raises what the store raised.
        """
        self._mine.clear()
        self._alarm = Alarm()
        self._open, self._closing, self._following = True, False, False
        self._begin_anew()
        await self._read_on()

    async def run(self) -> NoReturn:
        """Apply what comes, until cancelled."""
        self._following = True
        await patiently(lambda: self._alarm.answer(self.run_once), name="the control log")

    def wake(self) -> None:
        """Look for messages soon."""
        self._alarm.ring()

    async def stop(self) -> None:
        """Call no more handlers; returns when the one that runs is over, which has 5 s more."""
        self._closing = True
        if self._call is not None:
            self._call.deadline = min(self._call.deadline, anyio.current_time() + _END_WITHIN)
            await self._call_over.wait()
        self._open = False

    async def run_once(self) -> None:
        """Apply what is there now."""
        if not await self._read_on():
            logger.warning(
                "the control log is not the one that was applied here up to version %d: the store went back in time, "
                "probably in a fail-over; all that is current is applied again",
                self.applied,
            )
            self._begin_anew()
            await self._read_on()

    def _begin_anew(self) -> None:
        self._place, self._catching_up = ControlPlace(), True

    async def _read_on(self) -> bool:
        """Apply page by page to the end; False if the place is not of this log."""
        more = True
        while more and not self._closing:
            page = await self._rows.read(self._place, _PAGE, newest=self._catching_up)
            if page is None:
                return False
            for message in page.messages:
                if not await self._apply(message):
                    return True
                self._place = ControlPlace(message.version)
            self._place, more = page.place, page.more
            self._catching_up = self._catching_up and more
        return True

    async def _apply(self, message: ControlMessage) -> bool:
        """Tell the handlers of one message; False if the layer ended before all were told."""
        handlers = self._handlers.get(message.method)
        if message.sender in self._mine:
            return True
        if not handlers:
            logger.debug("control message %d: nothing is registered for %r", message.version, message.method)
            self._telemetry.count("mcpsession_unknown_control_messages_total")
            return True
        for handler in tuple(handlers):
            # Each has its own: what one changes in it is not the others' affair.
            params = _decode(message)
            if params is None:
                logger.warning("control message %d is malformed and was ignored", message.version)
                return True
            if self._closing:
                return False
            await self._tell(handler, params, message)
        self._telemetry.count("mcpsession_control_messages_total")
        return True

    async def _tell(self, handler: ControlHandler, params: Mapping[str, Any], message: ControlMessage) -> None:
        then = f"control message {message.version} ({message.method}) counts as applied"
        # The end of the layer leaves it its time; whoever waits for the start may give up at once.
        with anyio.CancelScope(shield=self._following) as self._call:
            self._call_over = anyio.Event()
            try:
                if not await call(
                    handler, params, at_most=self._timeout, what="control handler", then=then, logger=logger
                ):
                    self._telemetry.count("mcpsession_failed_control_handlers_total")
            finally:
                cut, self._call = self._call.cancel_called, None
                self._call_over.set()
        if cut:
            logger.warning("control handler of %r was cut off %g s after the layer's end", message.method, _END_WITHIN)


def _check(method: str, key: str) -> None:
    check_method(method)
    if not isinstance(key, str) or len(key) > _LONGEST_KEY:
        raise NewsError(f"its key must be a text of at most {_LONGEST_KEY} characters")
    for text in (method, key):
        if fault := fault_of(text):
            raise NewsError(f"its method or key cannot be stored: {fault}")


def _takes_one(handler: object) -> bool:
    if not callable(handler):
        return False
    try:
        inspect.signature(handler).bind({})
    except TypeError:
        return False
    except ValueError:
        # Some that are written in C do not tell.
        return True
    return True


def _decode(message: ControlMessage) -> dict[str, Any] | None:
    try:
        params = json.loads(message.params)
    except (ValueError, RecursionError):
        return None
    return params if isinstance(params, dict) else None
