"""Whom the reaper takes: what it looks for in each pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mcpsession.records import Session


@dataclass(frozen=True, slots=True)
class Expired:
    """Sessions, streams and mail past their expiry. There by default. Costs a look along the expiry indexes."""


@dataclass(frozen=True, slots=True)
class Orphaned:
    """Streams whose replica is recorded dead: they are finished, with an error for each call. There by default."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Sessions without activity for `after` seconds, whatever their ttl, those that never expire included.

    And for `touch_flush` (5 s) longer, because activity is written so late. A session that is touched while the reaper
    looks stays. Costs a walk over all live sessions, page by page.
    """

    after: float

    def __post_init__(self) -> None:
        if not 0 < self.after < float("inf"):
            raise ValueError(f"after={self.after} is not allowed: seconds above 0")


@dataclass(frozen=True, slots=True)
class Matching:
    """Live sessions for which `predicate` holds, which gets the whole record and must not block.

    One whose activity was written since it was read stays (it is written every `touch_flush`, 5 s). Costs a walk over
    all live sessions, with their states.
    """

    predicate: Callable[[Session], bool]


Policy = Expired | Orphaned | Idle | Matching
