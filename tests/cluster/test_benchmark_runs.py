"""The benchmark of tool calls runs: its servers, its load, its table and what it writes down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from examples.cluster import ROOT

# Seconds for the servers to start and some runs of the load, on a machine that does much else.
PATIENCE = 120

OPTIONS = ("--only=calls", "--http=h11", "--quick", "--rounds=1", "--seconds=0.1", "--sessions=2")


def test_a_quick_run_measures_every_side_and_draws_what_it_measured(server_url: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *OPTIONS, f"--url={server_url}", f"--json={file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    [server] = json.loads(file.read_text())["calls"]["servers"]
    assert {"stock", "ours", "strict", "ceiling"} <= server["sides"].keys()
    assert all(side["calls_per_second"] > 0 for side in server["sides"].values())
    assert {"stock", "ours"} == server["paced"][0]["sides"].keys()
    assert (tmp_path / "calls.svg").exists()
