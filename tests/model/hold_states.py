"""What there is of one session's standalone stream: its row, the GETs that want it, and who writes messages to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LIVE = ("take", "judged", "ring", "settle", "stream", "write", "leave")
"""Phases of a GET whose replica lives and that has not gone."""


@dataclass(frozen=True)
class HoldRules:
    """What the design does; each can be left out."""

    holder_waited_for: bool = True
    """A new holder waits until the one before has let go, is dead, or has been silent for a second."""
    position_released: bool = True
    """Who lets go says how far it came."""
    released_if_settled: bool = True
    """Only who was settled says so: anybody else has sent nothing."""
    saved_by_epoch: bool = True
    """How far a stream came is saved by its present holder only."""
    unsettled_no_end: bool = True
    """The death of a holder that never was settled settles nobody: those before it may live."""
    all_rung: bool = True
    """Who has to wait rings all replicas: the one before may have died before it could ring the one before that."""
    take_locked: bool = True
    """A take judges the row that it has locked."""
    append_locked: bool = True
    """An append counts on the locked row."""
    counted_on_row: bool = True
    """Numbers come from the row, not from the events that a snapshot shows."""


@dataclass(frozen=True)
class HoldBounds:
    """How much of the world there is."""

    gets: int = 2
    messages: int = 2
    cuts: int = 0
    kills: int = 0
    silences: int = 0
    """How often one that lives is taken for gone."""
    cursors: bool = False
    """The client sends its last id."""


class Row(NamedTuple):
    """The stream's row; holders are GETs by their number, -1 is none."""

    last_seq: int = 0
    holder: int = -1
    previous: int = -1
    epoch: int = 0
    released: int = 0
    delivered: int = 0


class Get(NamedTuple):
    """One GET."""

    phase: str = "idle"
    """`idle`, `take`, `judged`, `ring`, `settle`, `stream`, `write`, `leave`, `gone`; of a dead replica
    `killed`, `buried` (which is recorded)."""
    epoch: int = 0
    previous: int = -1
    """Who held the stream when this one took it: that one is rung."""
    settled: bool = False
    place: int = 0
    saved: int = 0
    page: int = 0
    told: bool = False
    """A bell said that somebody else takes the stream."""
    heard: bool = True
    """The client still reads it."""
    given_up: bool = False
    """Taken for gone; what it writes is not held against anybody."""
    seen: Row | None = None
    """Without the lock: the row as its take has judged it."""


class Held(NamedTuple):
    """One state."""

    gets: tuple[Get, ...]
    writers: tuple[int, ...]
    """What each message's writer has seen as the last number: -1, not begun; -2, done."""
    kills: int
    cuts: int
    silences: int
    row: Row = Row()
    written: tuple[int, ...] = ()
    """By message: the sockets that it went to, as bits, without those whose replica died or was given up."""
    known: int = 0
    """The last message that the client has, with none missing before it."""
