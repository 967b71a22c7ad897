"""Draw what a run measured, from its JSON alone: `python -m benchmarks.picture FILE.json`."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drawing import Bar, BarPanel, Panel, draw
from benchmarks.growth_picture import growth_panels

# What of the machine is written below the picture, on two lines.
NAMED = (
    {"CPU": "{}", "cores": "{} cores", "memory": "{}", "system": "{}"},
    {"Python": "{}", "mcp": "mcp {}", "Postgres": "Postgres {}"},
)

HTTP = {"h11": "uvicorn as pip brings it (h11, asyncio)", "httptools": "uvicorn[standard] (httptools, uvloop)"}


def calls_panels(part: Mapping[str, Any]) -> list[Panel]:
    """Calls per second and p99 at the same rate, with each HTTP server."""
    panels: list[Panel] = []
    load, rounds = part["load"], part["rounds"]
    for server in part["servers"]:
        shown = {key: side for key, side in server["sides"].items() if key != "ceiling"}
        bars = [
            Bar(side["title"], side["calls_per_second"], _times(key, side), _kind(key)) for key, side in shown.items()
        ]
        panels.append(
            BarPanel(
                f"Tool calls per second, {HTTP.get(server['http'], server['http'])}",
                f"more is better; {load['sessions']} sessions, SSE, medians of {rounds} rounds, all sides in turn",
                bars,
            )
        )
        paced = server["paced"][0]
        ratio = paced["p99_ours_by_stock"]["median"]
        panels.append(
            BarPanel(
                f"p99 latency at the same {paced['offered_per_second']:,.0f} calls per second",
                f"less is better; {paced['share_of_stock']:.0%} of the stock SDK's rate above, in an open loop",
                [
                    Bar(
                        side["title"],
                        1e3 * side["p99"],
                        f"{ratio:.2f} times stock" if key == "ours" else "",
                        _kind(key),
                    )
                    for key, side in paced["sides"].items()
                ],
                tell=lambda ms: f"{ms:.1f} ms",
            )
        )
    return panels


def _times(key: str, side: Mapping[str, Any]) -> str:
    return "" if key == "stock" else f"{side['by_stock']['median']:.2f} times stock"


def _kind(key: str) -> str:
    return {"ours": "ours", "strict": "second"}.get(key, "other")


# By the name of the part in the JSON: the title, and what draws its panels.
PICTURES: dict[str, tuple[str, Callable[[Mapping[str, Any]], Sequence[Panel]]]] = {
    "calls": ("Tool calls per second, and their p99 at the same rate, beside other servers", calls_panels),
    "growth": ("What one unit costs as an installation grows", growth_panels),
}


def draw_all(numbers: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a picture of each part that has one, named like the part, and return the files."""
    files = []
    for name, (title, panels) in PICTURES.items():
        if name in numbers:
            file = folder / f"{name}.svg"
            file.write_text(draw(title, panels(numbers[name]), footnote=_footnote(numbers["machine"])))
            files.append(file)
    return files


def _footnote(machine: Mapping[str, str]) -> str:
    return "\n".join(
        " · ".join(said.format(machine[name]) for name, said in line.items() if name in machine) for line in NAMED
    )


def main() -> int:
    """Draw the pictures beside the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    for drawn in draw_all(json.loads(file.read_text()), file.parent):
        print(drawn)  # noqa: T201 (what the command is for)
    return 0


if __name__ == "__main__":
    sys.exit(main())
