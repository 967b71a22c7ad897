"""The result of news: as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.news_idle import Idle

TITLES = {
    "publish": "publish on A to a client of B",
    "notify": "bare pg_notify in A to a listener",
    "store": "the same with a row, and its reader",
}

APPENDS = {
    "with": "events of 16 writers, 50 published a second",
    "without": "without news, A and B standing still",
    "busy": "and something else as busy as they were",
}


@dataclass(frozen=True)
class Latency:
    """One turn. Seconds."""

    sent: int
    p50: float
    p99: float
    slowest: float


@dataclass(frozen=True)
class Rate:
    """One turn: how many in how many seconds."""

    done: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.done else 0.0


@dataclass(frozen=True)
class NewsResult:
    """Everything that a run measured of news."""

    rounds: int
    seconds: float
    latencies: Mapping[str, Sequence[Latency]]
    """`publish`, and with nothing of ours `notify` and `store`: from before it begins to the client's process."""
    published: Mapping[int, Sequence[Rate]]
    """By how many at once."""
    followed: Sequence[Rate]
    """By a subscriber, while most at once published."""
    caught_up: Sequence[Rate]
    """By a subscriber for whom all of it lay waiting."""
    idle: Idle
    appends: Mapping[str, Sequence[float]]
    """Events a second: `with` news meanwhile, `without`, and `busy`: without, but with as much CPU time taken."""
    appends_cpu: float
    """CPU seconds in a second of both replicas and their part of Postgres, while they had news."""
    same: bool

    def latency_ratios(self, side: str) -> list[float]:
        """Publish ÷ that side in their medians, for the pair of each round."""
        pairs = zip(self.latencies["publish"], self.latencies[side], strict=True)
        return [publish.p50 / other.p50 for publish, other in pairs]

    def append_ratios(self, side: str) -> list[float]:
        """With ÷ that side in events a second, for the pair of each turn."""
        return [one / other for one, other in zip(self.appends["with"], self.appends[side], strict=True)]

    def p50(self, side: str) -> float:
        return median(turn.p50 for turn in self.latencies[side])

    def p99(self, side: str) -> float:
        return median(turn.p99 for turn in self.latencies[side])

    def aims(self) -> list[tuple[bool, str]]:
        """What was aimed at, and whether it was reached; nothing of the raw side against itself."""
        if self.same:
            return []
        ratio, p50, appends = (
            median(self.latency_ratios("notify")),
            self.p50("publish"),
            median(self.append_ratios("without")),
        )
        return [
            (ratio <= 3, f"publish to a client's bytes within 3 times a bare pg_notify: {ratio:.2f}"),
            (p50 < 0.005, f"and in under 5 ms: {1e3 * p50:.2f} ms"),
            (appends >= 0.95, f"appends with news at 0.95 of those without, or better: {appends:.2f}"),
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured and what follows from it; times in seconds."""
        return {
            "rounds": self.rounds,
            "seconds": self.seconds,
            "latency": {
                side: {"p50": self.p50(side), "p99": self.p99(side), "rounds": [asdict(turn) for turn in turns]}
                for side, turns in self.latencies.items()
            },
            "publish_by_notify": _spread(self.latency_ratios("notify")),
            "publish_by_store": _spread(self.latency_ratios("store")),
            "published": {str(at_once): _rates_as_json(rates) for at_once, rates in self.published.items()},
            "followed": _rates_as_json(self.followed),
            "caught_up": _rates_as_json(self.caught_up),
            "idle_replica": asdict(self.idle),
            "appends": {side: {"per_second": median(rates), "rounds": rates} for side, rates in self.appends.items()},
            "appends_with_by_without": _spread(self.append_ratios("without")),
            "appends_with_by_busy": _spread(self.append_ratios("busy")),
            "cpu_of_news_meanwhile": self.appends_cpu,
            "aims": [{"reached": reached, "aim": aim} for reached, aim in self.aims()],
        }


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def _rates_as_json(rates: Sequence[Rate]) -> dict[str, Any]:
    return {"per_second": _per_second(rates), "rounds": [asdict(rate) for rate in rates]}


def _per_second(rates: Sequence[Rate]) -> float:
    return median(rate.per_second for rate in rates)


def show_news(result: NewsResult, console: Console) -> None:
    """Print the tables and the aims."""
    console.print(f"\n[bold]News, from replica A to a client of replica B[/bold]  (medians of {result.rounds} rounds)")
    console.print(_latencies(result))
    console.print(_rates(result))
    idle = result.idle
    console.print(
        f"An idle replica: {1e3 * idle.cpu:.1f} ms of CPU and {idle.transactions:.1f} transactions a second, "
        f"{idle.connections:g} connections\n"
        f"50 publications a second: {1e3 * result.appends_cpu:.0f} ms of CPU a second in A, B and Postgres\n"
    )
    for reached, aim in result.aims():
        console.print(f"{'reached' if reached else 'MISSED '}  {aim}", style="" if reached else "bold red")


def _latencies(result: NewsResult) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("one at a time", no_wrap=True)
    for name in ("p50 ms", "p99 ms", "publish ÷ it"):
        table.add_column(name, justify="right", no_wrap=True)
    titles = TITLES | ({"publish": "bare pg_notify, the same again"} if result.same else {})
    for side, title in titles.items():
        ratio = "" if side == "publish" else _range(result.latency_ratios(side))
        table.add_row(title, f"{1e3 * result.p50(side):.2f}", f"{1e3 * result.p99(side):.2f}", ratio)
    return table


def _rates(result: NewsResult) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("at full speed", no_wrap=True)
    for name in ("a second", "with news ÷ it"):
        table.add_column(name, justify="right", no_wrap=True)
    for at_once, rates in result.published.items():
        table.add_row(f"published, {at_once} at once", f"{_per_second(rates):,.0f}", "")
    table.add_row("followed by a subscriber of B meanwhile", f"{_per_second(result.followed):,.0f}", "")
    table.add_row("and when all of it waits for him", f"{_per_second(result.caught_up):,.0f}", "")
    for side, title in APPENDS.items():
        ratio = "" if side == "with" else _range(result.append_ratios(side))
        table.add_row(title, f"{median(result.appends[side]):,.0f}", ratio)
    return table


def _range(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
