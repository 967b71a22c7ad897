"""Whose cancellation it is."""

from __future__ import annotations

import math

import anyio


def interrupted() -> bool:
    """Whether a scope around this task was cancelled; else a CancelledError comes from what the task awaited."""
    return anyio.current_effective_deadline() == -math.inf
