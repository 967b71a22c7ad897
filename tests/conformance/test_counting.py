"""The count that decides over conformance notices whatever the suite's own summary hides."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.counting import Complaint, Expected, Tally, count

TWO_SCENARIOS = Expected(scenarios=2, checks=3)


def check(id: str, status: str = "SUCCESS", **more: Any) -> dict[str, Any]:
    return {"id": id, "name": id, "description": f"about {id}", "status": status, **more}


@pytest.fixture
def results(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """A faultless run of two scenarios, for tests to spoil."""
    return {
        "server-ping-2026-11-21T04-48-00-816Z": [check("ping"), check("wire-schema-valid")],
        "server-json-schema-2020-12-2026-11-21T04-48-03-101Z": [check("found"), check("frame", "INFO")],
    }


@pytest.fixture
def counted(tmp_path: Path, results: dict[str, list[dict[str, Any]]]) -> Any:
    def write_and_count() -> Tally:
        for folder, checks in results.items():
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "checks.json").write_text(json.dumps(checks), encoding="utf-8")
        return count(tmp_path, "2025-11-25", expected=TWO_SCENARIOS)

    return write_and_count


def test_a_faultless_run_is_exact_and_info_does_not_count(counted):
    tally = counted()

    assert tally.exact
    assert (2, 3, 0, 0) == (tally.scenarios, tally.success, tally.failure, tally.warning)
    assert () == tally.complaints
    assert 0 == tally.failed


def test_a_missing_check_fails(counted, results):
    """A scenario that breaks off writes fewer checks, and the suite's total shrinks in silence."""
    results["server-ping-2026-11-21T04-48-00-816Z"].pop()

    tally = counted()

    assert not tally.exact
    assert 1 == tally.failed


def test_a_missing_scenario_fails(counted, results):
    del results["server-json-schema-2020-12-2026-11-21T04-48-03-101Z"]

    tally = counted()

    assert not tally.exact
    assert 1 == tally.scenarios


def test_a_run_that_wrote_nothing_fails(tmp_path: Path):
    tally = count(tmp_path / "never-made", "2026-07-28")

    assert not tally.exact
    assert 152 == tally.failed


def test_a_warning_fails_though_the_suite_does_not_mind(counted, results):
    results["server-ping-2026-11-21T04-48-00-816Z"].append(check("retry", "WARNING", errorMessage="no retry field"))

    tally = counted()

    assert not tally.exact
    assert 1 == tally.failed
    assert (Complaint("ping", "retry", "WARNING", "no retry field"),) == tally.complaints


def test_a_failure_fails_and_is_told_with_its_scenario(counted, results):
    results["server-json-schema-2020-12-2026-11-21T04-48-03-101Z"][0] = check("found", "FAILURE")

    tally = counted()

    assert not tally.exact
    assert 1 == tally.failed
    assert (Complaint("json-schema-2020-12", "found", "FAILURE", "about found"),) == tally.complaints


def test_a_skipped_check_is_told_and_missed_in_the_total(counted, results):
    """Skipped checks are how the suite forgives what a server does not offer; ours offers everything."""
    results["server-ping-2026-11-21T04-48-00-816Z"][0] = check("ping", "SKIPPED")

    tally = counted()

    assert not tally.exact
    assert 1 == tally.failed
    assert "SKIPPED" == tally.complaints[0].status


def test_more_checks_than_expected_fail_too(counted, results):
    """Another version of the suite is another promise: the numbers must be looked at again."""
    results["server-ping-2026-11-21T04-48-00-816Z"].append(check("new"))

    assert not counted().exact
