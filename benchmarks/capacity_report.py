"""What one of each costs Postgres, as a table and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Cost:
    """Of one, out of so many."""

    what: str
    count: int
    seconds: float
    wal_bytes: float
    cpu: float | None
    """CPU seconds of all of Postgres; None where it is not ours to watch."""


@dataclass(frozen=True)
class Room:
    """What so many take on disk, with their indexes. Bytes."""

    what: str
    count: int
    total: int

    @property
    def each(self) -> float:
        return self.total / self.count


@dataclass(frozen=True)
class CapacityResult:
    sessions: int
    calls: int
    costs: Sequence[Cost]
    rooms: Sequence[Room]

    def as_json(self) -> Mapping[str, Any]:
        return {
            "sessions": self.sessions,
            "calls": self.calls,
            "costs": [asdict(cost) for cost in self.costs],
            "rooms": [asdict(room) | {"each": room.each} for room in self.rooms],
        }


def show_capacity(result: CapacityResult, console: Console) -> None:
    """Two tables."""
    table = Table(title=f"What Postgres spends, with {result.sessions:,} sessions")
    for column in ("for", "a second, one connection", "CPU µs", "log bytes"):
        table.add_column(column, justify="left" if column == "for" else "right")
    for cost in result.costs:
        cpu = "" if cost.cpu is None else f"{1e6 * cost.cpu:.0f}"
        table.add_row(cost.what, f"{1 / cost.seconds:,.0f}", cpu, f"{cost.wal_bytes:,.0f}")
    console.print(table)
    table = Table("of", "bytes on disk")
    for room in result.rooms:
        table.add_row(room.what, f"{room.each:,.0f}")
    console.print(table)
