"""The page about the settings has every one of them, with its true default and what presets make of it."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from mcpsession import SessionLayer
from mcpsession.presets import PRESETS
from mcpsession.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()


def table(chapter: str) -> list[list[str]]:
    """The rows of the table in one chapter, without its head."""
    lines = [line for line in PAGE.split(f"## {chapter}\n")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


ROWS = {row[0].strip("`"): row for row in table("All settings")}


def test_the_page_names_every_setting_once_in_their_order():
    assert [f"`{setting.name}`" for setting in fields(Settings)] == [row[0] for row in table("All settings")]


@pytest.mark.parametrize("name", [setting.name for setting in fields(Settings)])
def test_each_default_is_the_one_that_the_page_says(name):
    default = getattr(Settings(), name)
    said = ast.literal_eval(ROWS[name][1].strip("`"))
    assert (type(default), default) == (type(said), said)


@pytest.mark.parametrize("name", [setting.name for setting in fields(Settings)])
def test_each_preset_is_named_where_its_value_differs_from_the_default(name):
    differing = {
        preset: getattr(Settings.load({}, {}, preset=preset), name)
        for preset in PRESETS
        if getattr(Settings.load({}, {}, preset=preset), name) != getattr(Settings(), name)
    }
    said = re.findall(r"`(\w+)`: `([^`]+)`", ROWS[name][2])
    assert differing == {preset: ast.literal_eval(value) for preset, value in said}


def test_every_setting_has_a_meaning_that_ends_with_a_full_stop():
    assert [] == [name for name, row in ROWS.items() if not row[3].endswith(".")]


def test_the_page_names_every_preset_and_how_a_layer_is_made_with_it():
    assert [f"`{preset}`" for preset in PRESETS] == [row[0] for row in table("Presets")]
    for preset, row in zip(PRESETS, table("Presets"), strict=True):
        assert row[2].startswith(f"`SessionLayer.{preset}(")
        assert callable(getattr(SessionLayer, preset))
