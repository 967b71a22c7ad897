"""The result of fail-over: as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import percentile

# Seconds from kill -9 to the answer of a client that resumes at once.
ENDED_WITHIN = 5.0

ONE_BY_ONE = {
    "asked": "question: tool on A to its client",
    "answered here": "answer through A to the result",
    "answered elsewhere": "answer through B to the result",
    "resumed running": "resume on B, the call runs on A",
    "resumed finished": "resume on B, the call has finished",
    "cancelled here": "cancel through A to the tool's end",
    "cancelled elsewhere": "cancel through B to the tool's end",
}


@dataclass(frozen=True)
class Times:
    """Seconds that something took, by round."""

    rounds: Sequence[Sequence[float]]

    @cached_property
    def all(self) -> Sequence[float]:
        return sorted(time for times in self.rounds for time in times)

    @property
    def p50(self) -> float:
        return percentile(self.all, 0.50)

    @property
    def p99(self) -> float:
        return percentile(self.all, 0.99)

    def ratios(self, other: "Times") -> list[float]:
        """This median ÷ the other's, round by round."""
        return [median(one) / median(two) for one, two in zip(self.rounds, other.rounds, strict=True)]

    def as_json(self) -> dict[str, Any]:
        return {
            "measured": len(self.all),
            "p50": self.p50,
            "p99": self.p99,
            "slowest": self.all[-1],
            "p50_by_round": [median(times) for times in self.rounds],
        }


@dataclass(frozen=True)
class Kill:
    """One replica killed while it ran a call. Seconds from then on."""

    final: float
    """Until the client that resumed on another replica had the call's response."""
    next_call: float
    """Until the same session's next call, sent to a third replica at once, was answered."""


@dataclass(frozen=True)
class CatchUp:
    """News for a client of one replica, published by another. Seconds."""

    last: float
    """From the drop, or from where it would have been, to the last at the client."""
    publishing: float
    """How much of that passed until all was published."""


@dataclass(frozen=True)
class FailoverResult:
    """Everything that a run measured of fail-over."""

    settings: Mapping[str, float]
    """What the times after a fault come from."""
    times: Mapping[str, Times]
    """By what happened, each alone on its way: see ONE_BY_ONE."""
    kills: Sequence[Kill]
    news: int
    """So many are to be heard in each of the following."""
    dropped: Sequence[CatchUp]
    """The replica's listening connection was cut just before."""
    listening: Sequence[CatchUp]
    """The same without a cut."""

    @property
    def across(self) -> list[float]:
        """The answer through another replica ÷ through the one that asked, by round."""
        return self.times["answered elsewhere"].ratios(self.times["answered here"])

    def aims(self) -> list[tuple[bool, str]]:
        """What was aimed at, and whether it was reached."""
        slowest = max(kill.final for kill in self.kills)
        aim = f"kill -9 to the resuming client's answer under {ENDED_WITHIN:g} s: {slowest:.2f} s at most"
        return [(slowest < ENDED_WITHIN, aim)]

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured and what follows from it; times in seconds."""
        return {
            "settings": dict(self.settings),
            "times": {name: times.as_json() for name, times in self.times.items()},
            "answered_elsewhere_by_here": _spread(self.across),
            "kill": {
                "final": _spread([kill.final for kill in self.kills]),
                "next_call": _spread([kill.next_call for kill in self.kills]),
                "kills": [asdict(kill) for kill in self.kills],
            },
            "catch_up": {
                "news": self.news,
                "dropped": _catch_ups_as_json(self.dropped),
                "listening": _catch_ups_as_json(self.listening),
            },
            "aims": [{"reached": reached, "aim": aim} for reached, aim in self.aims()],
        }


def _spread(numbers: Sequence[float]) -> dict[str, float]:
    return {"median": median(numbers), "min": min(numbers), "max": max(numbers)}


def _catch_ups_as_json(catch_ups: Sequence[CatchUp]) -> dict[str, Any]:
    return {"last": _spread([one.last for one in catch_ups]), "times": [asdict(one) for one in catch_ups]}


def show_failover(result: FailoverResult, console: Console) -> None:
    """Print the tables, the ratio and the aims."""
    console.print("\n[bold]Fail-over: A runs the call, its client turns to another replica[/bold]")
    console.print(_one_by_one(result))
    console.print(f"An answer through B ÷ through A: {_range(result.across)}, medians of {len(result.across)} rounds")
    console.print(_after_faults(result))
    settings = ", ".join(f"{name} {value:g} s" for name, value in result.settings.items())
    console.print(f"[dim]settings: {settings}[/dim]\n")
    for reached, aim in result.aims():
        console.print(f"{'reached' if reached else 'MISSED '}  {aim}", style="" if reached else "bold red")


def _one_by_one(result: FailoverResult) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("one at a time", no_wrap=True)
    for name in ("measured", "p50 ms", "p99 ms", "slowest ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, title in ONE_BY_ONE.items():
        times = result.times[name]
        table.add_row(
            title, str(len(times.all)), *(f"{1e3 * time:.2f}" for time in (times.p50, times.p99, times.all[-1]))
        )
    return table


def _after_faults(result: FailoverResult) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("after a fault", no_wrap=True)
    for name in ("times", "median s", "min s", "max s"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = {
        "kill -9 to the answer of its call on B": [kill.final for kill in result.kills],
        "kill -9 to the answer of a new call on C": [kill.next_call for kill in result.kills],
        f"cut listener to the last of {result.news} news": [one.last for one in result.dropped],
        "the same news without the cut": [one.last for one in result.listening],
    }
    for title, times in rows.items():
        table.add_row(title, str(len(times)), *(f"{time:.3f}" for time in (median(times), min(times), max(times))))
    return table


def _range(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
