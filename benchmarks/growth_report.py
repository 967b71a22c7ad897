"""The result of growth: a table for each thing that grows, and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

# Up to here a cost counts as flat: what one row differs from another on a machine that does other things as well.
FLAT = 1.25


@dataclass(frozen=True)
class Column:
    """How a number of each row is shown."""

    key: str
    heading: str
    scale: float = 1.0
    digits: int = 0


@dataclass(frozen=True)
class Row:
    """One size: what each of its rounds measured, by name. Seconds, bytes and pieces."""

    label: str
    size: int
    rounds: Sequence[Mapping[str, float]]

    def all(self, key: str) -> list[float]:
        """Of the rounds that have it."""
        return [one[key] for one in self.rounds if key in one]

    def median(self, key: str) -> float | None:
        values = self.all(key)
        return median(values) if values else None


@dataclass(frozen=True)
class Axis:
    """One thing that grows, from the first row to the last."""

    key: str
    title: str
    cost: str
    """What should stay flat."""
    unit: str
    """What that is the cost of."""
    columns: Sequence[Column]
    rows: Sequence[Row]
    says: str
    """What the columns are."""

    def ratios(self, row: Row, cost: str = "") -> list[float]:
        """The row's cost ÷ the first row's, for the pair of each round; of what one of them has not, none."""
        cost = cost or self.cost
        pairs = zip(self.rows[0].all(cost), row.all(cost), strict=False)
        return [grown / first for first, grown in pairs if first]

    def is_flat(self, row: Row) -> bool:
        """Whether one unit costs no more than it did at the first size."""
        return median(self.ratios(row)) <= FLAT

    def _keys(self) -> list[str]:
        return [*dict.fromkeys([self.cost, *(column.key for column in self.columns)])]

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "cost": self.cost,
            "unit": self.unit,
            "rows": [
                {
                    "label": row.label,
                    "size": row.size,
                    **{key: row.median(key) for key in self._keys()},
                    "by_first": {key: _spread(ratios) for key in self._keys() if (ratios := self.ratios(row, key))},
                    "flat": self.is_flat(row),
                    "rounds": [dict(one) for one in row.rounds],
                }
                for row in self.rows
            ],
        }


@dataclass(frozen=True)
class GrowthResult:
    """Everything that a run measured of growth."""

    axes: Sequence[Axis]
    rounds: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "seconds": self.seconds,
            "flat_up_to": FLAT,
            "axes": {axis.key: axis.as_json() for axis in self.axes},
        }


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def show_growth(result: GrowthResult, console: Console) -> None:
    """Print a table for each axis, and what its columns are."""
    for axis in result.axes:
        console.print(f"\n[bold]{axis.title}[/bold]  (medians of {len(axis.rows[0].rounds)} rounds)")
        console.print(_table(axis))
        console.print(f"[dim]{axis.says}[/dim]")


def _table(axis: Axis) -> Table:
    # 80 columns: it is to be pasted into issues.
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("", no_wrap=True)
    for column in axis.columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    table.add_column("÷ first", justify="right", no_wrap=True)
    for row in axis.rows:
        table.add_row(
            row.label,
            *(_number(row.median(column.key), column) for column in axis.columns),
            f"{median(axis.ratios(row)):.2f}",
            style="" if axis.is_flat(row) else "bold",
        )
    return table


def _number(value: float | None, column: Column) -> str:
    return "" if value is None else f"{column.scale * value:,.{column.digits}f}"
