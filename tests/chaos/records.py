"""What clients write down during a run: the judge sees nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["result", "error"]

KIND_TOOLS = "tools"
"""News of which only the newest matters to who was away."""
KIND_CUSTOM = "custom"
"""News without a kind: everyone must hear each."""
KIND_OWN = "own"
"""Messages for one session alone."""


@dataclass(eq=False)
class Call:
    """One request of one client, from its first byte to its end."""

    tag: str
    """In the arguments, and in all that comes back: whatever carries another one is a stranger's."""
    tool: str
    began: float
    steps: int = 0
    """How many progress notifications there are before a result."""
    replica: int | None = None
    """Who ran it, as far as its client was told."""
    progress: list[int] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    """What came that should never come."""
    outcome: Outcome | None = None
    ended: float | None = None
    words: str = ""
    """The result's text, or why there is none."""
    frames: list[tuple[str, str]] | None = None
    """Of raw clients: event id and data of every frame that came whole, over all connections."""
    again: list[str] | None = None
    """Of raw clients: the data of the whole stream, read again when all was over; empty if it was not there."""
    rewinds: list[int] = field(default_factory=list)
    """Of the SDK's clients: after which event one asked to go on though it had later ones, so that these came again."""
    lost: str = ""
    """Why its client could not go on, though it held an event id."""

    def says(self, message: str | None) -> None:
        """Take the text of a progress notification: the replica's label and the tag."""
        replica, _, tag = (message or "").partition(" ")
        if tag != self.tag:
            self.strange.append(f"progress of another call arrived: {message!r}")
        else:
            self.replica = int(replica)

    def end(self, outcome: Outcome, words: str, at: float) -> None:
        if self.ended is None:
            self.outcome, self.words, self.ended = outcome, words, at


@dataclass(eq=False)
class Tally:
    """What a session's calls counted up in its state, as its client was told, and what was found in the end."""

    session: str
    acknowledged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Calls that ended without a result: each may have counted or not."""
    found: dict[str, int] | None = None
    """How often each call is in the state; None if it could not be read."""
    count: int = 0


@dataclass(frozen=True)
class Heard:
    kind: str
    number: int
    connection: int


@dataclass(eq=False)
class Hearing:
    """What one standalone stream told its client."""

    listener: str
    since: float
    everything: bool
    """Whether news without a kind reaches this client: the SDK drops what the specification does not know."""
    heard: list[Heard] = field(default_factory=list)
    told: list[tuple[int, bool]] = field(default_factory=list)
    """Messages to this session alone, in order: their numbers, and whether the call that sent each was answered."""
    listening: bool = False
    """Whether the client still had, or sought, a stream in the end: the SDK's gives up after two failures."""


@dataclass(frozen=True)
class Published:
    """One piece of news for all."""

    kind: str
    number: int
    acknowledged: bool
    at: float


@dataclass(eq=False)
class Fault:
    """What was done to the cluster, and from when to when."""

    kind: str
    target: int | None
    began: float
    ended: float | None = None

    def __str__(self) -> str:
        where = "" if self.target is None else f" of replica {self.target}"
        return f"{self.kind}{where}"


@dataclass(eq=False)
class Records:
    calls: list[Call] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    hearings: list[Hearing] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
