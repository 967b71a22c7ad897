"""How a replica is, in one word and a few numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mcpsession.sdk.parts import Parts

Word = Literal["ok", "degraded", "draining", "away", "stopped"]


@dataclass(frozen=True, slots=True)
class Health:
    """`ok`: all is well. `degraded`: serves, slower (see `problems`). `away`: the store does not answer. `draining` and
    `stopped`: send requests elsewhere."""

    status: Word
    replica: str
    label: str
    problems: list[str]
    last_beat: float
    """Seconds since the last confirmed beat was sent."""
    last_heard: float
    """Seconds since the listener last heard anything: a bell, or a ping."""
    listener: str
    """The listener's last change: `connected`, `disconnected`, `reconnected` or `failed`; `off` before the first."""
    journal_age: float
    journal_bytes: int
    in_flight: int
    standalone_streams: int
    resumed_streams: int
    cached_sessions: int
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests here."""
        return self.status in ("ok", "degraded")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(parts: Parts, last_heard: float, *, running: bool) -> Health:
    """Look at a replica without asking the store."""
    settings = parts.settings
    now = time.monotonic()
    beat, heard, proven = parts.heartbeat.last_beat, now - last_heard, now - parts.post_office.proven_at
    problems = []
    if running and not parts.heartbeat.may_write():
        problems.append(f"no beat was confirmed for {_seconds(beat)}: this replica pauses")
    if running and not parts.listening.hears:
        problems.append(
            f"no bells have been heard for {_seconds(parts.listening.deaf_for)}: news is polled every "
            f"{settings.poll:g} s, sessions are read for each request; check that the listener reaches Postgres "
            "directly (MCPSESSION_LISTEN_URL) and may log in there"
        )
    elif running and proven > settings.cache_lease:
        problems.append(f"no look at the mail succeeded for {_seconds(proven)}: sessions are read for each request")
    if parts.journal.age > settings.journal_age:
        problems.append(f"the journal could not write for {_seconds(parts.journal.age)}: new requests are refused")
    return Health(
        status=_word(parts, problems, running=running),
        replica=parts.heartbeat.replica_id,
        label=settings.label,
        problems=problems,
        last_beat=_finite(beat),
        last_heard=_finite(heard),
        listener=parts.listening.state or "off",
        journal_age=round(parts.journal.age, 3),
        journal_bytes=parts.journal.pending_bytes,
        in_flight=len(parts.in_flight),
        standalone_streams=len(parts.standalones),
        resumed_streams=len(parts.readers),
        cached_sessions=len(parts.cache),
        counts=parts.telemetry.snapshot(),
    )


def _word(parts: Parts, problems: list[str], *, running: bool) -> Word:
    if not running:
        return "stopped"
    if parts.drain.begun:
        return "draining"
    if not parts.heartbeat.may_write():
        return "away"
    return "degraded" if problems else "ok"


def _finite(seconds: float) -> float:
    # JSON has no infinity.
    return round(min(seconds, 1e9), 3)


def _seconds(seconds: float) -> str:
    return "ever" if seconds > 1e8 else f"{seconds:.1f} s"
