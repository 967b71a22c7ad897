"""Pictures of numbers as SVG: panels of bars and of lines, one below the other, on a card for light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol
from xml.etree import ElementTree

# User units; at GitHub's width one is about one pixel.
WIDTH = 840.0
MARGIN = 24.0
LINE_HEIGHT = 30.0
# What is written left of the bars, and right of them: the value and a note.
LABELS = 236.0
NOTES = 190.0

# Text is judged against the card and never against the page, so both schemes stay readable wherever the picture stands.
STYLE = """
.card { fill: #ffffff; stroke: #d0d7de }
text { fill: #1f2328; font: 15px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
.title { font-size: 17px; font-weight: 600 }
.soft { fill: #59636e; font-size: 14px }
.strong { font-weight: 600 }
.axis { stroke: #d0d7de; fill: none }
.ours { fill: #1a7f37; stroke: #1a7f37 }
.other { fill: #8c959f; stroke: #8c959f }
.second { fill: #0969da; stroke: #0969da }
.third { fill: #bc4c00; stroke: #bc4c00 }
.line { fill: none; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #3d444d }
  text { fill: #f0f6fc }
  .soft { fill: #9198a1 }
  .axis { stroke: #3d444d }
  .ours { fill: #3fb950; stroke: #3fb950 }
  .other { fill: #7d8590; stroke: #7d8590 }
  .second { fill: #58a6ff; stroke: #58a6ff }
  .third { fill: #f0883e; stroke: #f0883e }
}
"""

Point = tuple[float, float]


def number(value: float) -> str:
    """A number as short as it can be told: 12,345; 7; 1.2; 0.034."""
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"


@dataclass(frozen=True)
class Bar:
    """One bar; `kind` is a class of the style: ours, other, second, third."""

    label: str
    value: float
    note: str = ""
    kind: str = "other"


@dataclass(frozen=True)
class Line:
    """One line through its points, which are marked."""

    label: str
    points: Sequence[Point]
    kind: str = "ours"


class Panel(Protocol):
    """A part of a picture that draws itself under a given height."""

    @property
    def height(self) -> float: ...

    def draw(self, picture: ElementTree.Element, top: float) -> None: ...


@dataclass(frozen=True)
class BarPanel:
    """Horizontal bars, each with its value and its note at its end."""

    title: str
    subtitle: str
    bars: Sequence[Bar]
    tell: Callable[[float], str] = number

    @property
    def height(self) -> float:
        return 58.0 + LINE_HEIGHT * len(self.bars)

    def draw(self, picture: ElementTree.Element, top: float) -> None:
        _titles(picture, top, self.title, self.subtitle)
        longest = max((bar.value for bar in self.bars), default=0.0) or 1.0
        room = WIDTH - 2 * MARGIN - LABELS - NOTES
        for index, bar in enumerate(self.bars):
            y = top + 50 + LINE_HEIGHT * index
            left = MARGIN + LABELS
            width = max(1.5, room * bar.value / longest)
            strong = "strong" if bar.kind == "ours" else ""
            _text(picture, left - 10, y + 16, bar.label, kind=strong, anchor="end")
            _add(picture, "rect", x=left, y=y + 2, width=width, height=20, rx=3, kind=bar.kind)
            said = _text(picture, left + width + 8, y + 16, self.tell(bar.value), kind="strong")
            if bar.note:
                note = ElementTree.SubElement(said, "tspan", {"class": "soft", "dx": "8", "font-weight": "400"})
                note.text = bar.note


@dataclass(frozen=True)
class LinePanel:
    """Lines over one x; both axes begin at zero unless they are logarithmic, and then all values are above zero."""

    title: str
    subtitle: str
    x_title: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    tell: Callable[[float], str] = number

    height: float = 300.0

    def draw(self, picture: ElementTree.Element, top: float) -> None:
        _titles(picture, top, self.title, self.subtitle)
        points = [point for line in self.lines for point in line.points]
        xs = _Scale([x for x, _ in points], MARGIN + 64, WIDTH - MARGIN - 20, log=self.log_x)
        ys = _Scale([y for _, y in points], top + self.height - 52, top + 84, log=self.log_y)
        self._legend(picture, top + 66)
        for value in ys.ticks:
            y = ys.at(value)
            _add(picture, "path", d=f"M {xs.start:.1f} {y:.1f} H {xs.end:.1f}", kind="axis")
            _text(picture, xs.start - 8, y + 5, self.tell(value), kind="soft", anchor="end")
        # Only what was measured is marked: between two points nobody looked.
        for x in sorted({x for x, _ in points}):
            _text(picture, xs.at(x), ys.start + 20, number(x), kind="soft", anchor="middle")
        _text(picture, (xs.start + xs.end) / 2, ys.start + 40, self.x_title, kind="soft", anchor="middle")
        for line in self.lines:
            places = [(xs.at(x), ys.at(y)) for x, y in line.points]
            drawn = " L ".join(f"{x:.1f} {y:.1f}" for x, y in places)
            _add(picture, "path", d=f"M {drawn}", kind=f"{line.kind} line", style="fill: none")
            for x, y in places:
                _add(picture, "circle", cx=x, cy=y, r=3.5, kind=line.kind)

    def _legend(self, picture: ElementTree.Element, y: float) -> None:
        x = MARGIN + 64
        for line in self.lines:
            _add(picture, "rect", x=x, y=y - 10, width=14, height=10, rx=2, kind=line.kind)
            _text(picture, x + 20, y, line.label, kind="soft")
            # About the width of a letter of this size, and room between two.
            x += 20 + 7.6 * len(line.label) + 22


class _Scale:
    """From values to places."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        self.start, self.end, self._log = start, end, log
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if log:
            self._low, self._high = float(math.floor(math.log10(low))), float(math.ceil(math.log10(high)))
            self._high = max(self._high, self._low + 1)
            self.ticks = [10.0**power for power in range(int(self._low), int(self._high) + 1)]
        else:
            step = _round_step((high or 1.0) / 4)
            self._low, self._high = 0.0, step * math.ceil((high or 1.0) / step)
            self.ticks = [step * count for count in range(round(self._high / step) + 1)]

    def at(self, value: float) -> float:
        value = math.log10(value) if self._log else value
        return self.start + (self.end - self.start) * (value - self._low) / (self._high - self._low)


def _round_step(least: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def draw(title: str, panels: Sequence[Panel], *, footnote: str = "") -> str:
    """Return the picture as the text of an SVG file; `title` is what a screen reader says, `footnote` what is below."""
    tops = [MARGIN]
    for panel in panels:
        tops.append(tops[-1] + panel.height + 16)
    footnotes = footnote.splitlines()
    height = tops[-1] + 20 * len(footnotes) + (8 if footnotes else 0)
    picture = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH:.0f} {height:.0f}",
            "width": f"{WIDTH:.0f}",
            "role": "img",
        },
    )
    ElementTree.SubElement(picture, "title").text = title
    ElementTree.SubElement(picture, "style").text = STYLE
    _add(picture, "rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, kind="card")
    for panel, (top, _) in zip(panels, pairwise(tops), strict=True):
        panel.draw(picture, top)
    for index, line in enumerate(footnotes):
        _text(picture, MARGIN, tops[-1] + 8 + 20 * index, line, kind="soft")
    ElementTree.indent(picture)
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


def _titles(picture: ElementTree.Element, top: float, title: str, subtitle: str) -> None:
    _text(picture, MARGIN, top + 16, title, kind="title")
    _text(picture, MARGIN, top + 38, subtitle, kind="soft")


def _text(
    picture: ElementTree.Element, x: float, y: float, text: str, *, kind: str = "", anchor: str = "start"
) -> ElementTree.Element:
    element = _add(picture, "text", x=x, y=y, kind=kind, text_anchor=anchor)
    element.text = text
    return element


def _add(picture: ElementTree.Element, tag: str, *, kind: str = "", **attributes: object) -> ElementTree.Element:
    """Add an element; coordinates are rounded, so that the same numbers are the same file."""
    told = {
        name.replace("_", "-"): f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    return ElementTree.SubElement(picture, tag, {**({"class": kind} if kind else {}), **told})
