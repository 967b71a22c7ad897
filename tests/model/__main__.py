"""Explore the model: `python -m tests.model`, larger with --deep; a rule's trace with --without RULE."""

from __future__ import annotations

import argparse
import sys
import time

from tests.model import scenarios
from tests.model.explorer import explore

# A state takes about a kilobyte.
MOST = 5_000_000


def say(what: object) -> None:
    """To the terminal, at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main() -> int:
    """Print what each exploration finds; the exit code is 1 if a promise breaks that should not."""
    faults = {**scenarios.CALLS, **scenarios.HOLDS, **scenarios.LIVES}
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--deep", action="store_true", help="larger worlds: minutes, and some gigabytes")
    parser.add_argument("--without", choices=faults, metavar="RULE", help=f"one of {', '.join(faults)}")
    options = parser.parse_args()
    if options.without:
        say(explore(faults[options.without].model))
        return 0
    worlds, failed = dict(scenarios.KEPT), 0
    for name, model in ({**worlds, **scenarios.DEEP} if options.deep else worlds).items():
        began = time.monotonic()
        outcome = explore(model, most=MOST)
        say(f"{name}: {outcome} ({time.monotonic() - began:.1f} s)")
        failed |= bool(outcome.broken)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
