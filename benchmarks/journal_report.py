"""The result of the journal, a replay and the cache's memory: as tables, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.journal_memory import Memory
from benchmarks.journal_replay import Replayed
from benchmarks.journal_writing import Written

MOST_BYTES = 2048


@dataclass(frozen=True)
class JournalResult:
    """Everything that a run measured of them."""

    titles: Mapping[str, str]
    ways: Mapping[str, tuple[str, str]]
    """Ways to replay: title, and the key of what it is measured against."""
    seconds: float
    rounds: int
    backlog: int
    written: Mapping[str, Sequence[Written]]
    replayed: Mapping[str, Sequence[Replayed]]
    memory: Memory
    missing: str | None
    """Why other people's store was not measured."""

    def rate(self, key: str) -> float:
        return median(turn.rate for turn in self.written[key])

    def ratios(self, key: str, other: str = "raw") -> list[float]:
        """The one ÷ the other in events a second, for the pair of each round."""
        pairs = zip(self.written[key], self.written[other], strict=True)
        return [one.rate / another.rate for one, another in pairs]

    def replay_ratios(self, key: str) -> list[float]:
        """Its seconds ÷ those of what it is measured against, for the pair of each round."""
        pairs = zip(self.replayed[key], self.replayed[self.ways[key][1]], strict=True)
        return [one.seconds / another.seconds for one, another in pairs]

    def aims(self) -> list[tuple[bool, str]]:
        """What was aimed at, and whether it was reached; nothing of the raw side against itself."""
        if "calls" not in self.written:
            return []
        of_raw, replay = median(self.ratios("messages")), median(self.replay_ratios("resume"))
        aims = [
            (of_raw >= 0.5, f"events through the journal at 0.5 of a bare INSERT or better: {of_raw:.2f}"),
            (replay <= 2, f"a client's replay within 2 times the bare SELECT: {replay:.2f}"),
            (
                self.memory.resident <= MOST_BYTES,
                f"an idle session cached in 2 KB or less: {self.memory.resident / 1024:.2f} KB",
            ),
        ]
        if "mcp-persist" in self.written:
            by_peer = median(self.ratios("messages", "mcp-persist"))
            aims.insert(1, (by_peer >= 6, f"the same at 6 times mcp-persist's store or better: {by_peer:.1f}"))
        return aims

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured and what follows from it; times in seconds."""
        return {
            "seconds": self.seconds,
            "rounds": self.rounds,
            "missing": self.missing,
            "written": {key: self._written_as_json(key) for key in self.written},
            "backlog": self.backlog,
            "replayed": {key: self._replayed_as_json(key) for key in self.replayed},
            "memory": asdict(self.memory),
            "aims": [{"reached": reached, "aim": aim} for reached, aim in self.aims()],
        }

    def _written_as_json(self, key: str) -> dict[str, Any]:
        turns = self.written[key]
        ratios = {"by_raw": _spread(self.ratios(key))}
        if "mcp-persist" in self.written:
            ratios["by_mcp_persist"] = _spread(self.ratios(key, "mcp-persist"))
        return {
            "title": self.titles[key],
            "per_second": self.rate(key),
            **ratios,
            "cpu": median(turn.cpu / turn.events for turn in turns),
            "postgres_cpu": _postgres(turns),
            "statements": _statements(turns),
            "rounds": [asdict(turn) for turn in turns],
        }

    def _replayed_as_json(self, key: str) -> dict[str, Any]:
        turns = self.replayed[key]
        return {
            "title": self.ways[key][0],
            "against": self.ways[key][1],
            "seconds": median(turn.seconds for turn in turns),
            "cpu": median(turn.cpu for turn in turns),
            "by_raw": _spread(self.replay_ratios(key)),
        }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _postgres(turns: Sequence[Written]) -> float | None:
    """CPU seconds of Postgres for an event; None where it is not on this machine."""
    spent = [turn.postgres / turn.events for turn in turns if turn.postgres is not None]
    return median(spent) if spent else None


def _statements(turns: Sequence[Written]) -> float | None:
    """For an event; None where nobody counted."""
    counted = [turn.statements / turn.events for turn in turns if turn.statements is not None]
    return median(counted) if counted else None


def show_journal(result: JournalResult, console: Console) -> None:
    """Print the tables, what they compare, and the aims."""
    rounds = f"(medians of {result.rounds} x {result.seconds:g} s)"
    console.print(f"\n[bold]Events into the log[/bold]  {rounds}")
    console.print(_writing(result))
    for key, title in result.titles.items():
        console.print(f"{key}: {title}", style="dim")
    console.print("µs: CPU time for one event, of the process that writes and of Postgres (PG)", style="dim")
    if result.missing:
        console.print(f"mcp-persist is not there: {result.missing}", style="yellow")
    console.print(f"\n[bold]A backlog of {result.backlog:,} events, read again[/bold]")
    console.print(_replaying(result))
    for key, (title, _) in result.ways.items():
        console.print(f"{key}: {title}", style="dim")
    memory = result.memory
    console.print(
        f"\n[bold]An idle session in a replica's cache[/bold]  {memory.resident:,.0f} bytes resident, "
        f"{memory.allocated:,.0f} allocated  ({memory.sessions:,} sessions)\n"
    )
    for reached, aim in result.aims():
        console.print(f"{'reached' if reached else 'MISSED '}  {aim}", style="" if reached else "bold red")


def _writing(result: JournalResult) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in ("events/s", "÷ raw", "÷ mcp-persist", "µs", "PG µs", "statements"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, turns in result.written.items():
        ratios, postgres, statements = result.ratios(key), _postgres(turns), _statements(turns)
        by_peer = median(result.ratios(key, "mcp-persist")) if "mcp-persist" in result.written else None
        table.add_row(
            key,
            f"{result.rate(key):,.0f}",
            f"{median(ratios):.2f}",
            "" if by_peer is None else f"{by_peer:.1f}",
            f"{1e6 * median(turn.cpu / turn.events for turn in turns):.1f}",
            "" if postgres is None else f"{1e6 * postgres:.1f}",
            "" if statements is None else f"{statements:.4f}",
        )
    return table


def _replaying(result: JournalResult) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in ("ms", "events/s", "µs an event", "÷ raw"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, turns in result.replayed.items():
        seconds, ratios = median(turn.seconds for turn in turns), result.replay_ratios(key)
        table.add_row(
            key,
            f"{1e3 * seconds:.1f}",
            f"{result.backlog / seconds:,.0f}",
            f"{1e6 * median(turn.cpu / turn.events for turn in turns):.2f}",
            f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        )
    return table
