"""The store's result: as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.store_turn import Turn


@dataclass(frozen=True)
class Measured:
    """All turns of one operation, by side, in the order of the rounds."""

    operation: str
    title: str
    at_once: int
    """Workers; each has one operation under way."""
    turns: Mapping[str, Sequence[Turn]]

    @property
    def ratios(self) -> list[float]:
        """Store ÷ raw in operations per second, for the pair of each round."""
        pairs = zip(self.turns["store"], self.turns["raw"], strict=True)
        return [store.rate / raw.rate for store, raw in pairs]

    def rate(self, side: str) -> float:
        return median(turn.rate for turn in self.turns[side])

    def p50(self, side: str) -> float:
        return median(turn.p50 for turn in self.turns[side])

    def p99(self, side: str) -> float:
        return median(turn.p99 for turn in self.turns[side])

    def cpu(self, side: str) -> float:
        """CPU seconds of the client's process for one operation."""
        return median(turn.cpu / turn.done for turn in self.turns[side])


@dataclass(frozen=True)
class StoreResult:
    """Everything that a run measured of the store."""

    titles: Mapping[str, str]
    stored: int
    listed: int
    reaped: int
    seconds: float
    rounds: int
    rows: Sequence[Measured]

    def rows_of(self, operation: str) -> Sequence[Measured]:
        """Its rows, that with one at a time first."""
        return [row for row in self.rows if row.operation == operation]

    def aims(self) -> list[tuple[bool, str]]:
        """What was aimed at, and whether it was reached; nothing of the raw side against itself."""
        if self.titles["store"] == self.titles["raw"]:
            return []
        of_raw = min(median(row.ratios) for name in ("get", "touch") for row in self.rows_of(name))
        slowest = max(self.rows_of(name)[0].p50("store") for name in ("create", "update", "delete"))
        [listing], [reaping] = self.rows_of("list"), self.rows_of("reap")
        return [
            (of_raw >= 0.9, f"get and touch at 0.90 of raw or better: {of_raw:.2f}"),
            (slowest < 0.01, f"create, update and delete in under 10 ms each: {1e3 * slowest:.2f} ms at most"),
            (listing.p50("store") < 0.1, f"a list of {self.listed:,} in under 100 ms: {_ms(listing.p50('store'))} ms"),
            (reaping.rate("store") >= 20_000, f"20,000 sessions reaped a second: {reaping.rate('store'):,.0f}"),
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured and what follows from it; times in seconds."""
        return {
            "sides": dict(self.titles),
            "stored": self.stored,
            "listed": self.listed,
            "reaped": self.reaped,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "rows": [_row_as_json(row) for row in self.rows],
            "aims": [{"reached": reached, "aim": aim} for reached, aim in self.aims()],
        }


def _row_as_json(row: Measured) -> dict[str, Any]:
    return {
        "operation": row.operation,
        "at_once": row.at_once,
        "store_by_raw": {"median": median(row.ratios), "min": min(row.ratios), "max": max(row.ratios)},
        "sides": {
            side: {
                "per_second": row.rate(side),
                "p50": row.p50(side),
                "p99": row.p99(side),
                "cpu": row.cpu(side),
                "rounds": [asdict(turn) for turn in turns],
            }
            for side, turns in row.turns.items()
        },
    }


def show_store(result: StoreResult, console: Console) -> None:
    """Print the table, what it compares, and the aims."""
    console.print(
        f"\n[bold]The session store, {result.stored:,} sessions in Postgres[/bold]"
        f"  (medians of {result.rounds} x {result.seconds:g} s)"
    )
    console.print(_table(result))
    console.print(
        f"[dim]store: {result.titles['store']}\nraw: {result.titles['raw']}\n"
        "x1, x5: so many under way at once; ms: until one through the store is done;\n"
        f"µs: CPU time of this process for one; reap counts sessions, its ms are for {result.reaped:,}[/dim]\n"
    )
    for reached, aim in result.aims():
        console.print(f"{'reached' if reached else 'MISSED '}  {aim}", style="" if reached else "bold red")


def _table(result: StoreResult) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in ("store/s", "raw/s", "store ÷ raw", "p50 ms", "p99 ms", "µs", "raw µs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.rows:
        ratios = row.ratios
        table.add_row(
            row.title,
            *(_rate(row.rate(side)) for side in ("store", "raw")),
            f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            _ms(row.p50("store")),
            _ms(row.p99("store")),
            *(f"{1e6 * row.cpu(side):,.0f}" for side in ("store", "raw")),
        )
    return table


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds < 0.01 else f"{1e3 * seconds:,.0f}"
