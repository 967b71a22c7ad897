"""How the request that is being handled reports its progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from mcpsession.errors import NoRequestError

Report = Callable[[float, float | None, str | None], Awaitable[None]]

REPORT: ContextVar[Report] = ContextVar("mcpsession_report")
"""Set where a request's handler runs: sends its progress on the request's own stream, while that lasts."""


def current_report() -> Report:
    """The report of the request that is being handled.

    Raises NoRequestError outside of a handler, and in requests of 2026-07-28, whose streams are the SDK's own.
    """
    try:
        return REPORT.get()
    except LookupError:
        raise NoRequestError from None
