"""The result of many open streams: as lines, and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Memory:
    """Resident bytes: of each replica, and of the clients' process, before the streams were opened and after."""

    before: Sequence[int]
    after: Sequence[int]
    clients_before: int
    clients_after: int

    @property
    def grown(self) -> int:
        return sum(self.after) - sum(self.before)


@dataclass(frozen=True)
class Rest:
    """What all of it costs while nothing happens."""

    seconds: float
    replica_cpu: Sequence[float]
    """CPU seconds of each replica in a second."""
    postgres_cpu: float | None
    """The same of all of Postgres's processes; None where they are not ours to watch."""
    transactions: float
    """In a second."""


@dataclass(frozen=True)
class Heard:
    """One publication: how many streams heard it, and when, in seconds from before it began."""

    heard: int
    lost: int
    """Streams that had ended."""
    first: float
    median: float
    last: float


@dataclass(frozen=True)
class StreamsResult:
    """Everything that a run measured of streams."""

    streams: int
    replicas: int
    sessions_opened: float
    """Seconds."""
    streams_opened: float
    memory: Memory
    rest: Rest
    heard: Sequence[Heard]

    @property
    def bytes_per_stream(self) -> float:
        """In the replicas, with the session that it belongs to."""
        return self.memory.grown / self.streams

    def as_json(self) -> dict[str, Any]:
        return {
            "streams": self.streams,
            "replicas": self.replicas,
            "opened": {"sessions": self.sessions_opened, "streams": self.streams_opened},
            "memory": asdict(self.memory) | {"per_stream": self.bytes_per_stream},
            "rest": asdict(self.rest),
            "heard": [asdict(one) for one in self.heard],
            "last": {"median": median(one.last for one in self.heard), "max": max(one.last for one in self.heard)},
        }


def show_streams(result: StreamsResult, console: Console) -> None:
    """Print what was measured."""
    memory, rest = result.memory, result.rest
    replicas = ", ".join(
        f"{before / MIB:.0f} to {after / MIB:.0f}" for before, after in zip(memory.before, memory.after, strict=True)
    )
    cpus = ", ".join(f"{1e3 * cpu:.0f}" for cpu in rest.replica_cpu)
    postgres = "" if rest.postgres_cpu is None else f", Postgres {1e3 * rest.postgres_cpu:.0f}"
    console.print(
        f"\n[bold]{result.streams:,} standalone streams over {result.replicas} replicas[/bold]\n"
        f"  opened       sessions in {result.sessions_opened:.1f} s, streams in {result.streams_opened:.1f} s\n"
        f"  memory       {result.bytes_per_stream / KIB:.1f} KiB a stream; replicas {replicas} MiB\n"
        f"               clients {memory.clients_before / MIB:.0f} to {memory.clients_after / MIB:.0f} MiB\n"
        f"  at rest      ms of CPU a second: replicas {cpus}{postgres}\n"
        f"               {rest.transactions:,.1f} transactions a second"
    )
    for one in result.heard:
        console.print(
            f"  heard by     {one.heard:,}: the first after {1e3 * one.first:.0f} ms, half after "
            f"{1e3 * one.median:.0f}, the last after {1e3 * one.last:.0f}"
        )
