"""In CI a skipped test is a failed one: what a machine lacks must not go unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPING = {
    "mark": "@pytest.mark.skip(reason='run: apt-get install thing')\ndef test_it(): pass",
    "call": "def test_it(): pytest.skip('run: apt-get install thing')",
    "fixture": "@pytest.fixture\ndef it(): pytest.skip('run: apt-get install thing')\ndef test_it(it): pass",
    "module": "pytest.skip('run: apt-get install thing', allow_module_level=True)",
}


def outcome(tmp_path: Path, test: str, fail: str) -> tuple[int, str]:
    (tmp_path / "test_one.py").write_text(f"import pytest\n\n{test}\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-ra", "--rootdir", str(tmp_path), str(tmp_path)]
    environment = os.environ | {"MCPSESSION_FAIL_ON_SKIP": fail, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("test", SKIPPING.values(), ids=SKIPPING.keys())
def test_a_skip_fails_and_says_why(tmp_path: Path, test: str) -> None:
    code, output = outcome(tmp_path, test, "1")
    assert 0 != code
    assert "run: apt-get install thing (a skip is a failure here: MCPSESSION_FAIL_ON_SKIP=1)" in output


@pytest.mark.parametrize("fail", ["", "0"])
def test_elsewhere_a_skip_is_a_skip(tmp_path: Path, fail: str) -> None:
    code, output = outcome(tmp_path, SKIPPING["call"], fail)
    assert 0 == code
    assert "1 skipped" in output


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    code, output = outcome(tmp_path, "@pytest.mark.xfail(reason='known')\ndef test_it(): assert False", "1")
    assert 0 == code, output
