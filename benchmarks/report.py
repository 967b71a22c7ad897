"""The result of a run's tool calls: as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import Sample
from benchmarks.paced_report import Paced, show_paced
from benchmarks.sides import Load

# The load must be able to do so many times what the fastest side does, and must not need more of a core than this.
ROOM = 3.0
LOAD_SHARE = 0.6

PERSIST = ("mcp-persist", "mcp-persist-batched")

EXPLAINED = {
    "ours": "mcpsession, Postgres: durable before a client can ask for it again",
    "strict": "mcpsession, strict: each frame waits for its row",
    "mcp-persist": "mcp-persist: on Postgres, durable sessions; each frame waits for its row",
    "mcp-persist-batched": "mcp-persist, batched: events written behind, up to 50 ms later",
    "fastmcp": "FastMCP: its event store on Postgres (py-key-value), its sessions in memory",
}


@dataclass(frozen=True)
class Result:
    """All samples with one HTTP server, by side, in the order of the rounds."""

    http: str
    loop: str
    titles: Mapping[str, str]
    samples: Mapping[str, Sequence[Sample]]
    load: Load
    paced: Sequence[Paced]
    """The one that is judged first."""

    @property
    def measured(self) -> list[str]:
        """The sides that are servers."""
        return [key for key in self.samples if key != "ceiling"]

    def ratios(self, key: str, to: str = "stock") -> list[float]:
        """One side ÷ another in calls per second, within each round."""
        pairs = zip(self.samples[key], self.samples[to], strict=True)
        return [one.rate / other.rate for one, other in pairs]

    def rate(self, key: str) -> float:
        return median(sample.rate for sample in self.samples[key])

    @property
    def best_persist(self) -> str | None:
        """The faster of mcp-persist's ways; None if it was not measured."""
        present = [key for key in PERSIST if key in self.samples]
        return max(present, key=self.rate) if present else None

    @property
    def cpu_ratio(self) -> float:
        """Stock ÷ ours in the server's CPU time per call: what the ratio is without other work on the machine."""
        return self.per_call("stock", "server") / self.per_call("ours", "server")

    def per_call(self, key: str, process: str) -> float:
        """CPU seconds of a process for one call, or NaN if there is none to watch."""
        return median(sample.cpu.get(process, float("nan")) / sample.calls for sample in self.samples[key])

    @property
    def room(self) -> float:
        """How many times the fastest side the load generator could do."""
        return self.rate("ceiling") / max(self.rate(key) for key in self.measured)

    @property
    def load_share(self) -> float:
        """Of one core, what the load needs on the side where it needs most; on its ceiling it needs all."""
        return max(median(sample.load_share for sample in self.samples[key]) for key in self.measured)

    def aims(self) -> list[tuple[bool, str]]:
        """What was aimed at, and whether it was reached; nothing of stock against itself."""
        if "strict" not in self.samples:
            return []
        stock, strict = median(self.ratios("ours")), median(self.ratios("strict"))
        aims = [(stock >= 4.0, f"durable ÷ stock SDK in memory, 4.0 or more: {stock:.2f}")]
        if (best := self.best_persist) is not None:
            persist = median(self.ratios("ours", best))
            aims.append((persist >= 7.0, f"durable ÷ {self.titles[best]}, 7.0 or more: {persist:.2f}"))
        p99 = median(self.paced[0].ratios)
        return [
            *aims,
            (strict >= 1.5, f"strict ÷ stock SDK in memory, 1.5 or more: {strict:.2f}"),
            (p99 <= 0.25, f"p99 at the first of these rates ÷ stock, 0.25 or less: {p99:.2f}"),
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured and what follows from it; times in seconds."""
        best = self.best_persist
        return {
            "http": self.http,
            "loop": self.loop,
            "sides": {key: self._side_as_json(key) for key in self.samples},
            "ours_by_mcp_persist": None if best is None else {"side": best, **spread(self.ratios("ours", best))},
            "server_cpu_stock_by_ours": self.cpu_ratio,
            "load_generator_room": self.room,
            "load_generator_share": self.load_share,
            "paced": [paced.as_json() for paced in self.paced],
            "aims": [{"reached": reached, "aim": aim} for reached, aim in self.aims()],
        }

    def _side_as_json(self, key: str) -> dict[str, Any]:
        samples = self.samples[key]
        return {
            "title": self.titles[key],
            "calls_per_second": self.rate(key),
            "p50": median(sample.p50 for sample in samples),
            "p99": median(sample.p99 for sample in samples),
            "by_stock": spread(self.ratios(key)),
            "rounds": [asdict(sample) for sample in samples],
        }


@dataclass(frozen=True)
class CallsResult:
    """Both HTTP servers, and what could not be measured, with the reason."""

    results: Sequence[Result]
    left_out: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        return {
            "load": asdict(self.results[0].load),
            "rounds": len(self.results[0].samples["stock"]),
            "servers": [result.as_json() for result in self.results],
            "left_out": dict(self.left_out),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def show_machine(described: Mapping[str, str], console: Console) -> None:
    """Print where the numbers come from."""
    for name, value in described.items():
        console.print(f"  [dim]{name:<20}[/dim] {value}")


def show(result: CallsResult, console: Console) -> None:
    """Print the tables, the ratios and the aims, with each HTTP server."""
    for one in result.results:
        _show_one(one, console)
    for name, reason in result.left_out.items():
        console.print(f"left out: {name} ({reason})", style="bold")


def _show_one(result: Result, console: Console) -> None:
    load, rounds = result.load, len(result.samples["stock"])
    console.print(
        f"\n[bold]Calls of {load.tool}, SSE, {load.sessions} sessions in a closed loop[/bold]: {result.http}, "
        f"{result.loop}\n(medians of {rounds} x {load.seconds:g} s; ÷ stock: median of the rounds, least and most)"
    )
    console.print(_table(result))
    explained = [text for key, text in EXPLAINED.items() if key in result.samples and "strict" in result.samples]
    console.print(
        "[dim]"
        + "\n".join(["p50, p99: ms; server, PG (Postgres), load: CPU time for one call, in µs", *explained])
        + "[/dim]"
    )
    fine = result.room >= ROOM and result.load_share <= LOAD_SHARE
    console.print(
        f"The load {'is not the bottleneck' if fine else 'MAY BE THE BOTTLENECK'}: it can do {result.room:.1f} times "
        f"the fastest side,\nand needs {result.load_share:.0%} of a core.",
        style="" if fine else "bold red",
    )
    show_paced(result.paced, console)
    console.print()
    for reached, aim in result.aims():
        console.print(f"{'reached' if reached else 'MISSED '}  {aim}", style="" if reached else "bold red")
    if not result.aims():
        console.print(f"{result.titles['ours']} ÷ {result.titles['stock']}: {_ratio(result.ratios('ours'))}")


def _table(result: Result) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for name in ("calls/s", "p50", "p99", "server", "PG", "load", "÷ stock"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, samples in result.samples.items():
        table.add_row(
            result.titles[key],
            f"{result.rate(key):,.0f}",
            f"{1e3 * median(sample.p50 for sample in samples):.2f}",
            f"{1e3 * median(sample.p99 for sample in samples):.1f}",
            *(_micro(result.per_call(key, name)) for name in ("server", "Postgres")),
            _micro(median(sample.load_cpu / sample.calls for sample in samples)),
            "" if key in ("stock", "ceiling") else _ratio(result.ratios(key)),
            style={"ceiling": "dim", "ours": "bold"}.get(key, ""),
        )
    return table


def _ratio(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.1f}-{max(ratios):.1f})"


def _micro(seconds: float) -> str:
    """Microseconds; empty for what cannot be watched."""
    return "" if seconds != seconds else f"{1e6 * seconds:.0f}"
