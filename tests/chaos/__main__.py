"""`python -m tests.chaos --seconds 300 --seed 7`: break things, and say at the end what that did to the clients."""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from dataclasses import asdict
from pathlib import Path

import anyio

from tests.chaos.judge import judge
from tests.chaos.report import is_good, lines
from tests.chaos.run import Run, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break a cluster and judge it.")
    parser.add_argument("--seconds", type=float, default=300, help="how long things break (default 300)")
    parser.add_argument("--seed", type=int, help="default: a random one, printed")
    parser.add_argument("--keep", type=Path, help="a folder for the records and the replicas' logs")
    arguments = parser.parse_args()
    # The SDK's client logs what it lives through; here it is not news that a connection broke.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    say(f"seed {seed}, {arguments.seconds:g} s")
    this = anyio.run(run, seed, arguments.seconds, say)
    verdict = judge(this.records)
    if arguments.keep:
        keep(this, arguments.keep)
    for line in lines(this, verdict):
        say(line)
    sys.exit(0 if is_good(this, verdict) else 1)


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (the report is what this program is for)


def keep(this: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.json").write_text(json.dumps(asdict(this.records), indent=1))
    for index, log in enumerate(this.logs):
        (folder / f"replica-{index}.log").write_text(log)


if __name__ == "__main__":
    main()
