"""The result of compression: as tables, one for each kind of message, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.compression_payloads import KINDS
from benchmarks.compression_sides import SIDES, Side

KINDS_SAID = {"prose": "prose", "table": "tables of numbers", "base64": "pictures as base64"}


@dataclass(frozen=True)
class Turn:
    """One turn of one way."""

    events: int
    seconds: float
    client_cpu: float
    """CPU seconds of the writing process: packing, and the driver."""
    server_cpu: float
    """CPU seconds of the backend that it writes through."""
    wal_bytes: int
    table_bytes: int
    """With what lies beside the table, and its indexes."""
    read: int
    read_seconds: float
    """For so many events, unpacked."""

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


@dataclass(frozen=True)
class Row:
    """Medians of one way. For one event: CPU and reading in seconds."""

    per_second: float
    client_cpu: float
    server_cpu: float
    wal_bytes: float
    table_bytes: float
    reading: float
    by_pglz: Mapping[str, float]
    """Events a second ÷ those of what is there now, round by round."""


@dataclass(frozen=True)
class CompressionResult:
    """Everything that a run measured of compression."""

    rounds: int
    seconds: float
    turns: Mapping[tuple[str, int, str], Sequence[Turn]]
    """By kind, size and way."""

    def row(self, kind: str, size: int, key: str) -> Row:
        turns, as_is = self.turns[kind, size, key], self.turns[kind, size, "pglz"]
        ratios = [turn.per_second / other.per_second for turn, other in zip(turns, as_is, strict=True)]
        return Row(
            per_second=median(turn.per_second for turn in turns),
            client_cpu=median(turn.client_cpu / turn.events for turn in turns),
            server_cpu=median(turn.server_cpu / turn.events for turn in turns),
            wal_bytes=median(turn.wal_bytes / turn.events for turn in turns),
            table_bytes=median(turn.table_bytes / turn.events for turn in turns),
            reading=median(turn.read_seconds / turn.read for turn in turns),
            by_pglz={"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        )

    @property
    def sides(self) -> Sequence[Side]:
        """Those that this server can."""
        return [side for side in SIDES if any(key == side.key for _, _, key in self.turns)]

    @property
    def sizes(self) -> Sequence[int]:
        return sorted({size for _, size, _ in self.turns})

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured; times in seconds, for one event where not said otherwise."""
        return {
            "rounds": self.rounds,
            "seconds": self.seconds,
            "ways": {side.key: side.title for side in self.sides},
            "messages": [
                {"kind": kind, "bytes": size, "way": key}
                | asdict(self.row(kind, size, key))
                | {"rounds": [asdict(turn) for turn in turns]}
                for (kind, size, key), turns in self.turns.items()
            ],
        }


def show_compression(result: CompressionResult, console: Console) -> None:
    """Print a table for each kind."""
    console.print(
        f"\n[bold]Large messages, one writer, batches as the journal's[/bold]"
        f"  (medians of {result.rounds} x {result.seconds:g} s)"
    )
    for kind in KINDS:
        console.print(_table(result, kind))
    if all(side.key != "lz4" for side in result.sides):
        console.print("This Postgres was built without lz4; --url names another one.", style="bold")
    console.print("[dim]one event: CPU and reading in µs, WAL and table in KiB; ÷: by pglz, in pairs[/dim]")


def _table(result: CompressionResult, kind: str) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column(KINDS_SAID[kind], no_wrap=True)
    for name in ("events/s", "÷", "client", "server", "WAL", "table", "read"):
        table.add_column(name, justify="right", no_wrap=True)
    for size in result.sizes:
        for side in result.sides:
            row = result.row(kind, size, side.key)
            table.add_row(
                f"{size // 1024:>3} KiB, {side.title}",
                f"{row.per_second:,.0f}",
                f"{row.by_pglz['median']:.2f}",
                f"{1e6 * row.client_cpu:.0f}",
                f"{1e6 * row.server_cpu:.0f}",
                f"{row.wal_bytes / 1024:,.1f}",
                f"{row.table_bytes / 1024:,.1f}",
                f"{1e6 * row.reading:.0f}",
                end_section=side is result.sides[-1],
                style="dim" if side.key == "plain" else "",
            )
    return table
