"""What sessions are, without a store: a dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

Outcome = Any
"""What a verb answered: a value, or the name of the error that it raised."""


class Created(NamedTuple):
    """What nobody can know of a session before it is created."""

    incarnation: int = 0
    version: int = 0


@dataclass(frozen=True)
class Op:
    """One verb, on one replica, by everybody or by one owner."""

    verb: str
    replica: int
    owner: str | None
    ids: tuple[str, ...]
    n: int
    ttl: float | None
    claim: str = ""
    """What was answered to the last claim of the session's initialization."""
    version: int = 0
    """Of the state: the present one, or one that is not."""

    @property
    def id(self) -> str:
        return self.ids[0]

    @property
    def new_owner(self) -> str:
        return self.owner or ""


@dataclass
class Row:
    incarnation: int
    owner: str
    ttl: float | None
    state: dict[str, Any]
    metadata: dict[str, Any]
    version: int
    claim: str = ""
    client: bool = False
    initialized: bool = False
    failed: bool = False

    @property
    def phase(self) -> str:
        if self.failed:
            return "error"
        if self.initialized:
            return "initialized"
        return "initializing" if self.claim or self.client else "pre_init"

    @property
    def view(self) -> tuple[Any, ...]:
        return (self.incarnation, self.owner, self.ttl, self.state, self.metadata, self.version, self.phase)


@dataclass
class Model:
    live: dict[str, Row] = field(default_factory=dict)
    dead: dict[str, str] = field(default_factory=dict)
    """What is there still of those that ended: `expired`, or `terminated`, which blocks the id."""
    ended: list[int] = field(default_factory=list)
    """The incarnations that expiry handlers must hear of, each once."""

    def copy(self) -> Model:
        return Model({id_: replace(row) for id_, row in self.live.items()}, dict(self.dead), list(self.ended))

    def seen(self, op: Op, id_: str) -> Row | None:
        row = self.live.get(id_)
        return row if row is not None and op.owner in (None, row.owner) else None

    def is_free(self, id_: str) -> bool:
        return id_ not in self.live and self.dead.get(id_) != "terminated"

    def enter(self, op: Op, id_: str, created: Created) -> None:
        self.dead.pop(id_, None)
        self.live[id_] = Row(created.incarnation, op.new_owner, op.ttl, {"n": op.n}, {"m": op.n}, created.version)

    def end(self, id_: str, leaving: str | None = None) -> None:
        self.ended.append(self.live.pop(id_).incarnation)
        if leaving is not None:
            self.dead[id_] = leaving

    def owned(self, op: Op) -> list[str]:
        return sorted(id_ for id_ in self.live if self.seen(op, id_))


class Done(Exception):  # noqa: N818  # it is no error: the verb has its answer
    """A step that gives the answer; there are no more."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
