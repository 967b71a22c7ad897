"""The result of the calls at a given rate: as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import Sample

# Above this share of its calls held back, an open loop is none.
HELD_BACK = 0.01


@dataclass(frozen=True)
class Paced:
    """All samples of the open loop, by side, in the order of the rounds."""

    titles: Mapping[str, str]
    samples: Mapping[str, Sequence[Sample]]
    offered: float
    sessions: int
    share: float
    """Of what stock reached in the closed loop."""

    @property
    def ratios(self) -> list[float]:
        """Ours ÷ stock in p99, for the pair of each round."""
        pairs = zip(self.samples["stock"], self.samples["ours"], strict=True)
        return [ours.p99 / stock.p99 for stock, ours in pairs]

    def held_back(self, key: str) -> float:
        """The share of the calls that found no free session, over all rounds."""
        samples = self.samples[key]
        return sum(sample.held_back for sample in samples) / sum(sample.calls for sample in samples)

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured and what follows from it; times in seconds."""
        return {
            "offered_per_second": self.offered,
            "share_of_stock": self.share,
            "sessions": self.sessions,
            "sides": {
                key: {
                    "title": self.titles[key],
                    "p50": median(sample.p50 for sample in samples),
                    "p99": median(sample.p99 for sample in samples),
                    "slowest": max(sample.slowest for sample in samples),
                    "server_busy": median(busy(sample) for sample in samples),
                    "held_back": self.held_back(key),
                    "rounds": [asdict(sample) for sample in samples],
                }
                for key, samples in self.samples.items()
            },
            "p99_ours_by_stock": {"median": median(self.ratios), "min": min(self.ratios), "max": max(self.ratios)},
            "load_lag_p99": self.lag,
        }

    @property
    def lag(self) -> float:
        """How late the load itself sent a call for which a session was free, p99, in the worst of the medians."""
        return max(median(sample.lag for sample in samples) for samples in self.samples.values())


def busy(sample: Sample) -> float:
    """CPU seconds of the server per second."""
    return sample.cpu["server"] / sample.seconds


def show_paced(results: Sequence[Paced], console: Console) -> None:
    """Print the table, and what would make it worthless."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in ("calls/s", "p50", "p99", "slowest", "busy", "held back", "p99 ÷ stock"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        for key, samples in result.samples.items():
            table.add_row(
                result.titles[key],
                f"{result.offered:,.0f}",
                *(f"{1e3 * median(getattr(sample, name) for sample in samples):.1f}" for name in ("p50", "p99")),
                f"{1e3 * max(sample.slowest for sample in samples):.0f}",
                f"{median(busy(sample) for sample in samples):.0%}",
                f"{result.held_back(key):.1%}",
                "" if key == "stock" else f"{median(result.ratios):.2f}",
                style="bold" if key == "ours" else "",
                end_section=key != "stock",
            )
    shares = " and ".join(f"{result.share:.0%}" for result in results)
    console.print(
        f"\n[bold]At an equal rate[/bold]: {shares} of what stock reached; open loop, {results[0].sessions} sessions"
    )
    console.print(table)
    lag = 1e3 * max(result.lag for result in results)
    console.print(
        "[dim]p50, p99, slowest: ms, from when a call was due; busy: CPU of the server;\n"
        "held back: due while no session was free; the load itself sent 99 of 100 of\n"
        f"the others within {lag:.1f} ms of when they were due[/dim]"
    )
    for result in results:
        for key in result.samples:
            if result.held_back(key) > HELD_BACK:
                console.print(
                    f"{result.titles[key]} could not keep up at {result.offered:,.0f} calls/s: its p99 says only that"
                )
