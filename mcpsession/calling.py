"""Calls what the application registered, so that nothing it does ends who calls it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from mcpsession.cancellation import interrupted
from mcpsession.threads import in_daemon_thread

T = TypeVar("T")


async def call(
    handler: Callable[[T], object], argument: T, *, at_most: float, what: str, then: str, logger: logging.Logger
) -> bool:
    """Call a handler, sync (in a thread) or async, and say whether it succeeded within `at_most` seconds.

    What went wrong is logged: `what` names the kind of handler, `then` says what happens all the same. Only the
    caller's own cancellation comes through.
    """
    name = getattr(handler, "__qualname__", handler)
    try:
        with anyio.fail_after(at_most):
            made = (
                handler(argument)
                if inspect.iscoroutinefunction(handler)
                else await in_daemon_thread(lambda: handler(argument))
            )
            if isinstance(made, Awaitable):
                await made
        return True
    except TimeoutError:
        logger.error("%s %s took longer than %g s; %s", what, name, at_most, then)
    except anyio.get_cancelled_exc_class():
        if interrupted():
            raise
        # The handler's own: it awaited something that was cancelled.
        logger.exception("%s %s let a cancellation escape; %s", what, name, then)
    except (Exception, SystemExit):  # the boundary; a handler that parses arguments must not end the server
        logger.exception("%s %s failed; %s", what, name, then)
    return False
