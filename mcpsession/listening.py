"""Whether this replica hears bells now, and who wants to know of it."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable

from mcpsession.model import ListenerState

logger = logging.getLogger(__name__)

ListenerCallback = Callable[[ListenerState], None]
"""Called on the event loop, so it must not block; what it raises is logged."""

_HEARING = ("connected", "reconnected")


class Listening:
    """The listener's state, for health and for all who poll while it is deaf."""

    def __init__(self) -> None:
        self._callbacks: list[ListenerCallback] = []
        self.state: ListenerState | None = None
        """The last change; None before the first."""
        self.changes = 0
        """How many there were; whoever sees the same number again, while bells are heard, has missed none between."""
        self._has_heard = False
        self._deaf_since: float | None = None

    def __repr__(self) -> str:
        return f"<Listening {self.state or 'at rest'}>"

    @property
    def hears(self) -> bool:
        """Whether bells are heard; while they are not, look for yourself every `settings.poll`."""
        return self.state in _HEARING

    @property
    def deaf_for(self) -> float:
        """Seconds since bells were last heard, or since the first attempt to hear them; 0 while they are."""
        return 0.0 if self._deaf_since is None else time.monotonic() - self._deaf_since

    def on(self, callback: ListenerCallback) -> ListenerCallback:
        """Call `callback`, a plain function, with each change, in order; add it before the layer starts. A decorator.

        `connected`: bells are heard for the first time. `disconnected`: not any more. `failed`: an attempt to hear them
        failed, each time. `reconnected`: they are heard again, and what was missed is being looked at.
        """
        if not callable(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError(f"a listener callback is a plain function of the state, not {callback!r}")
        self._callbacks.append(callback)
        return callback

    def note(self, state: ListenerState) -> None:
        """The listener says how it is."""
        if state == "connected" and self._has_heard:
            # Another ear's first time, of a replica that goes on under a new id.
            state = "reconnected"
        if state in _HEARING:
            self._has_heard, self._deaf_since = True, None
        elif self._deaf_since is None:
            self._deaf_since = time.monotonic()
        self.state = state
        self.changes += 1
        for callback in list(self._callbacks):
            try:
                callback(state)
            except Exception:  # the boundary: who only wants to know must not deafen the ear
                logger.exception("a listener callback failed")

    def rest(self) -> None:
        """Nobody listens, and nobody is meant to: the layer does not run."""
        self.state, self._has_heard, self._deaf_since = None, False, None
