"""What there is of one call: the row in the log, its producer, who reads it elsewhere, and the client.

`p1`, `p2`, … are the messages before the answer. A final is `F` (the handler's own), `X` (a stranger's, or a
stray's: the outcome is unknown), `E` (the store refused what was written) or `G` (a reader found nothing more to read).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FINALS = ("F", "X", "E", "G")


@dataclass(frozen=True)
class CallRules:
    """What the design does; each can be left out."""

    row_before_ids: bool = True
    """No event id leaves before its stream's row is in the log, unless the response leaves in the same write."""
    named_before_read: bool = True
    """A reader writes its name into the row before its first read."""
    row_locked: bool = True
    """Appends and take-overs judge the row that they have locked, not the one of an earlier snapshot."""
    base_checked: bool = True
    """An append is made where the stream has as many events as its writer believes, and nowhere else."""
    asked_skipped: bool = True
    """A take-over leaves out the numbers that the client says it has."""
    end_repeated: bool = True
    """Who asks for what comes after the end of a stream that was taken over is told the end."""
    fenced: bool = True
    """A replica that could be thought dead writes to no socket."""
    reborn_cuts: bool = True
    """A replica that was declared dead cuts its sockets and its handlers before it goes on."""
    reborn_renamed: bool = True
    """It goes on under a new id."""
    landed_asked: bool = True
    """Whether a batch of unknown outcome landed is asked before anybody believes that it did not."""
    reader_silences: bool = True
    """A reader elsewhere ends the writing to the producer's own socket."""
    dead_finished: bool = True
    """Readers and the sweep finish what dead producers left open."""
    strays_finished: bool = True
    """A replica finishes what is in its name and has no writer any more."""
    tails_polled: bool = True
    """A reader looks again after a while, rung or not."""


@dataclass(frozen=True)
class CallBounds:
    """How much of the world there is."""

    messages: int = 1
    """Before the answer."""
    cuts: int = 1
    """Of the client's connection."""
    breaks: int = 1
    """Of the journal's connection."""
    halts: int = 1
    """Of the producer: killed, or without a beat for too long, because it is frozen or the store is away."""
    lost_bells: int = 0
    poison: int = 0
    """The message that the store refuses; 0: none."""
    bells_only: bool = False
    """Nobody polls. What is promised then is promised of bells alone."""
    sweeps: bool = True
    """Streams of the dead are finished also if nobody reads them."""
    zombies: bool = False
    """A reader whose client has gone may go on beside the client's next one."""


class Row(NamedTuple):
    """The stream in the log. Its events are numbered by place; a taker's may skip, hence the numbers."""

    producer: str
    last_seq: int
    finished: bool
    taken: bool
    reader: str
    events: tuple[tuple[int, str], ...]


class Batch(NamedTuple):
    """One statement of the journal, as it was sent."""

    producer: str
    opens: bool
    base: int
    events: tuple[str, ...]
    finished: bool


class Producer(NamedTuple):
    """The replica that runs the handler."""

    run: str = "up"
    """`up` or `killed`. One that is frozen is up and takes no step until it is thawed, which any of its steps is."""
    name: str = "A"
    fresh: bool = True
    """Its last confirmed beat is young enough for it to be sure that nobody has declared it dead."""
    fenced: bool = False
    """It knows that it was declared dead, and has not cut everything yet."""
    told: int = 0
    """Messages that its handler has sent."""
    handling: bool = True
    base: int = -1
    seq: int = 0
    pending: tuple[str, ...] = ()
    finished: bool = False
    closed: bool = False
    batch: Batch | None = None
    outcome: str = ""
    """Of the batch: `sent`, `yes`, `no`, `refused` or `unsure`; `judged` is between the two halves of an append that
    locks nothing."""
    reader: str = ""
    """Whom the batch found in the row."""
    queue: tuple[tuple[int, str], ...] = ()
    socket: str = "unsent"
    """`unsent`, `open`, `done`, `refusing` or `cut`."""
    superseded: bool = False
    """The journal has told it of a reader elsewhere."""


class Reader(NamedTuple):
    """A GET with the client's last id."""

    at: str
    """`A` or `B`: the process."""
    seq: int
    phase: str
    """`name`, `read`, `take`, `taking`, `write` or `wait`."""
    named: bool = False
    page: tuple[tuple[int, str], ...] = ()
    over: bool = False
    rung: bool = False


class Client(NamedTuple):
    on: str = "own"
    """Where its connection leads: `own` (the POST's socket), a reader's place, or nowhere."""
    last: int = -1
    """The id that it would send; -1: it has none."""
    seen: int = 0
    over: str = ""
    """How its call ended: a final, or `lost` with its connection before any id came."""


class Left(NamedTuple):
    """Faults still to come."""

    cuts: int
    breaks: int
    halts: int
    bells: int


class Call(NamedTuple):
    """One state."""

    left: Left
    row: Row | None = None
    dead: bool = False
    """A's death is recorded."""
    ghost: Batch | None = None
    """A statement whose connection broke: it may still be executed, or never."""
    producer: Producer = Producer()
    readers: tuple[Reader, ...] = ()
    client: Client = Client()
