"""Pictures of growth: what one unit costs at each size, from the JSON alone."""

from collections.abc import Mapping
from typing import Any

from benchmarks.drawing import Bar, BarPanel, Panel


def growth_panels(part: Mapping[str, Any]) -> list[Panel]:
    """A panel for each thing that grows; what is not flat stands out."""
    return [
        BarPanel(
            axis["title"],
            f"µs of {'CPU' if axis['cost'] == 'cpu' else 'time'} for {axis['unit']}; less is better",
            [_bar(row, axis["cost"]) for row in axis["rows"]],
        )
        for axis in part["axes"].values()
    ]


def _bar(row: Mapping[str, Any], cost: str) -> Bar:
    ratio = row["by_first"][cost]["median"]
    return Bar(row["label"], 1e6 * row[cost], f"{ratio:.2f} times the first", "ours" if row["flat"] else "third")
