"""Counts what a run of the conformance suite really found, from the files that it wrote.

The suite's own summary will not do: it hides warnings, and its totals shrink when a scenario breaks off.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Expected:
    """What a faultless run of one protocol version counts."""

    scenarios: int
    checks: int


EXPECTED = {
    "2025-11-25": Expected(scenarios=33, checks=84),
    "2026-07-28": Expected(scenarios=40, checks=152),
}
"""By protocol version, for the pinned version of the suite."""

# The suite writes to "server-ping-2026-11-21T04-48-00-816Z".
FOLDER = re.compile(r"^server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z$")


@dataclass(frozen=True)
class Complaint:
    """A check that did not succeed, in the suite's words."""

    scenario: str
    check: str
    status: str
    message: str


@dataclass(frozen=True)
class Tally:
    """One run at one protocol version. INFO is not counted; SKIPPED is a complaint that only the total counts."""

    spec: str
    expected: Expected
    scenarios: int
    success: int
    failure: int
    warning: int
    complaints: tuple[Complaint, ...]

    @property
    def exact(self) -> bool:
        """Whether everything ran, once, and nothing but succeeded."""
        counted = Expected(scenarios=self.scenarios, checks=self.success)
        return counted == self.expected and not self.failure and not self.warning

    @property
    def failed(self) -> int:
        """How many checks failed, warned or are missing; at least 1 unless the run is exact."""
        if self.exact:
            return 0
        return max(self.failure + self.warning, abs(self.expected.checks - self.success), 1)


def count(directory: Path, spec: str, *, expected: Expected | None = None) -> Tally:
    """Count the checks of a run at `spec` whose scenarios each wrote `directory`/*/checks.json."""
    files = sorted(directory.glob("*/checks.json"))
    complaints: list[Complaint] = []
    statuses: Counter[str] = Counter()
    for file in files:
        for check in json.loads(file.read_text(encoding="utf-8")):
            statuses[check["status"]] += 1
            complaints.extend(_complaints(file.parent.name, check))
    return Tally(
        spec=spec,
        expected=expected or EXPECTED[spec],
        scenarios=len(files),
        success=statuses["SUCCESS"],
        failure=statuses["FAILURE"],
        warning=statuses["WARNING"],
        complaints=tuple(complaints),
    )


def _complaints(folder: str, check: dict[str, str]) -> Iterator[Complaint]:
    if check["status"] not in ("SUCCESS", "INFO"):
        message = check.get("errorMessage") or check.get("description") or "no message"
        yield Complaint(scenario=_scenario(folder), check=check["id"], status=check["status"], message=message)


def _scenario(folder: str) -> str:
    return FOLDER.sub(r"\1", folder)
