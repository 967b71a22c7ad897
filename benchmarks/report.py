"""The result of a run's tool calls: as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import Sample
from benchmarks.sides import Load

# Below this the load generator may have slowed a side down.
ROOM = 2.0


@dataclass(frozen=True)
class Result:
    """All samples of a run, by side, in the order of the rounds."""

    titles: Mapping[str, str]
    samples: Mapping[str, Sequence[Sample]]
    load: Load

    @property
    def ratios(self) -> list[float]:
        """Ours ÷ stock in calls per second, for the pair of each round."""
        pairs = zip(self.samples["stock"], self.samples["ours"], strict=True)
        return [ours.rate / stock.rate for stock, ours in pairs]

    @property
    def cpu_ratio(self) -> float:
        """Stock ÷ ours in the server's CPU time per call: what the ratio is without other work on the machine."""
        stock, ours = (median(_per_call(sample) for sample in self.samples[key]) for key in ("stock", "ours"))
        return stock / ours

    @property
    def room(self) -> float:
        """How many times the fastest side the load generator could do."""
        fastest = max(median(sample.rate for sample in self.samples[key]) for key in ("stock", "ours"))
        return median(sample.rate for sample in self.samples["ceiling"]) / fastest

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured and what follows from it; times in seconds."""
        return {
            "load": asdict(self.load),
            "sides": {
                key: {
                    "title": self.titles[key],
                    "calls_per_second": median(sample.rate for sample in samples),
                    "p50": median(sample.p50 for sample in samples),
                    "p99": median(sample.p99 for sample in samples),
                    "rounds": [asdict(sample) for sample in samples],
                }
                for key, samples in self.samples.items()
            },
            "ours_by_stock": {"median": median(self.ratios), "min": min(self.ratios), "max": max(self.ratios)},
            "server_cpu_stock_by_ours": self.cpu_ratio,
            "load_generator_room": self.room,
        }


def show_machine(described: Mapping[str, str], console: Console) -> None:
    """Print where the numbers come from."""
    for name, value in described.items():
        console.print(f"  [dim]{name:<20}[/dim] {value}")


def show(result: Result, console: Console) -> None:
    """Print the table and the ratio."""
    load, rounds = result.load, len(result.samples["stock"])
    console.print(
        f"\n[bold]Calls of {load.tool}, SSE, {load.sessions} sessions in a closed loop[/bold]"
        f"  (medians of {rounds} x {load.seconds:g} s)"
    )
    console.print(_table(result))
    console.print("[dim]server, Postgres, load: CPU time of each for one call, in µs[/dim]\n")
    ratios = result.ratios
    console.print(
        f"[bold]{result.titles['ours']} ÷ {result.titles['stock']}: {median(ratios):.2f}[/bold]"
        f"  ({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs)"
    )
    console.print(f"CPU time of the server for one call, the other way round: {result.cpu_ratio:.2f}")
    style = "" if result.room >= ROOM else "bold red"
    verdict = "is not the bottleneck" if result.room >= ROOM else "MAY BE THE BOTTLENECK"
    console.print(f"The load generator {verdict}: it can do {result.room:.1f} times the faster side.", style=style)


def _table(result: Result) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("", no_wrap=True)
    for name in ("calls/s", "p50 ms", "p99 ms", "server", "Postgres", "load"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, samples in result.samples.items():
        table.add_row(
            result.titles[key],
            f"{median(sample.rate for sample in samples):,.0f}",
            f"{1e3 * median(sample.p50 for sample in samples):.2f}",
            f"{1e3 * median(sample.p99 for sample in samples):.2f}",
            *(_cpu(samples, name) for name in ("server", "Postgres")),
            f"{1e6 * median(sample.load_cpu / sample.calls for sample in samples):.0f}",
            style="dim" if key == "ceiling" else "",
        )
    return table


def _cpu(samples: Sequence[Sample], name: str) -> str:
    """CPU per call of a process that works for a side; empty if there is none to watch."""
    if any(name not in sample.cpu for sample in samples):
        return ""
    return f"{1e6 * median(_per_call(sample, name) for sample in samples):.0f}"


def _per_call(sample: Sample, name: str = "server") -> float:
    return sample.cpu[name] / sample.calls
