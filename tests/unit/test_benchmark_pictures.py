"""The pictures of the benchmarks: drawn from the numbers' JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.drawing import Bar, BarPanel, Line, LinePanel, draw, number
from benchmarks.picture import draw_all

SVG = "{http://www.w3.org/2000/svg}"

CALLS = {
    "load": {"sessions": 8},
    "rounds": 5,
    "servers": [
        {
            "http": "h11",
            "sides": {
                "stock": {"title": "stock SDK", "calls_per_second": 1000.0, "by_stock": {"median": 1.0}},
                "ours": {"title": "mcpsession", "calls_per_second": 4100.0, "by_stock": {"median": 4.11}},
                "ceiling": {"title": "the load's ceiling", "calls_per_second": 20_000.0, "by_stock": {"median": 20.0}},
            },
            "paced": [
                {
                    "offered_per_second": 500.0,
                    "share_of_stock": 0.5,
                    "p99_ours_by_stock": {"median": 0.05},
                    "sides": {
                        "stock": {"title": "stock SDK", "p99": 0.1},
                        "ours": {"title": "mcpsession", "p99": 0.005},
                    },
                }
            ],
        }
    ],
}
NUMBERS = {"machine": {"CPU": "a CPU", "cores": "2", "Python": "CPython 3.11"}, "calls": CALLS, "unknown": {}}


def test_what_was_measured_is_drawn_again_from_its_json(tmp_path: Path) -> None:
    [file] = draw_all(json.loads(json.dumps(NUMBERS)), tmp_path)

    assert tmp_path / "calls.svg" == file
    texts = ["".join(text.itertext()).strip() for text in drawn(file.read_text()).iter(f"{SVG}text")]
    assert "4,100" + "4.11 times stock" in texts
    assert "5.0 ms" + "0.05 times stock" in texts
    assert "a CPU · 2 cores" in texts
    assert "the load's ceiling" not in texts


def test_the_same_numbers_are_the_same_file(tmp_path: Path) -> None:
    assert [file.read_text() for file in draw_all(NUMBERS, tmp_path)] == [
        file.read_text() for file in draw_all(NUMBERS, tmp_path)
    ]


def test_a_bar_is_as_long_as_its_value_and_everything_stays_on_the_card() -> None:
    picture = drawn(draw("two", [BarPanel("bars", "", [Bar("one", 50.0), Bar("other", 100.0, "a note")])]))

    card, one, other = picture.iter(f"{SVG}rect")
    assert float(one.attrib["width"]) * 2 == pytest.approx(float(other.attrib["width"]))
    assert float(other.attrib["x"]) + float(other.attrib["width"]) < float(card.attrib["width"])


@pytest.mark.parametrize("log", [False, True])
def test_lines_rise_with_their_values_on_either_scale(log: bool) -> None:
    lines = [Line("a", [(1, 10), (10, 20), (1000, 4000)]), Line("b", [(1, 5)], kind="other")]
    picture = drawn(draw("lines", [LinePanel("growth", "", "sessions", lines, log_x=log, log_y=log)]))

    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in picture.iter(f"{SVG}circle")][:3]
    assert places == sorted(places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)


def test_text_of_others_cannot_break_the_picture() -> None:
    assert "<&>" in {text.text for text in drawn(draw("<&>", [BarPanel("<&>", "", [])])).iter(f"{SVG}text")}


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (12_345.6, "12,346"), (99.6, "100"), (12.34, "12"), (7.0, "7"), (1.25, "1.2"), (0.0346, "0.035")],
)
def test_a_number_is_told_in_two_digits_or_whole(value: float, told: str) -> None:
    assert told == number(value)


def drawn(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)
