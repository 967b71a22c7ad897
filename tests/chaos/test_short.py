"""The short run of CI; `make chaos` is the long one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from examples.cluster import ROOT

SECONDS = 70
# Its first faults are of every kind. What a run does otherwise is up to the machine: it is never the same twice.
SEED = "47"


def test_nothing_is_lost_and_nobody_hangs_while_everything_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own: it runs a thousand calls, whose client must not share its loop with anything."""
    seed = os.environ.get("CHAOS_SEED", SEED)
    command = [sys.executable, "-m", "tests.chaos", f"--seconds={SECONDS}", f"--seed={seed}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 150, check=False)
    with capsys.disabled():
        print(f"\n{done.stdout}")  # noqa: T201 (what was counted is to be read)
    assert 0 == done.returncode, done.stderr[-5000:]
    assert "PASSED: 0 lost, 0 duplicates, 0 out of order, 0 hung calls" in done.stdout.splitlines()[-1]
