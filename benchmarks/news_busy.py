"""A process that takes CPU time and nothing else: `python -m benchmarks.news_busy --cpu 0.1`.

On a machine whose cores are all busy whoever works takes time from the others. Beside this one sees how much of what
is lost was only that, and not a lock.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from examples.replica import end_with_parent

# Slices, as of something that happens so often a second.
SLICES = 50


class Busy:
    """The process, from here."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._process.send_signal(signal.SIGSTOP)

    @contextmanager
    def working(self) -> Iterator[None]:
        """It works while inside."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)


@contextmanager
def busy(cpu: float) -> Iterator[Busy]:
    """A process that takes so many CPU seconds a second whenever it works; it rests at first."""
    command = [sys.executable, "-m", "benchmarks.news_busy", f"--cpu={cpu}", f"--parent={os.getpid()}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Busy(process)
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Say that it begins, and take the time until killed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.news_busy", description=__doc__)
    parser.add_argument("--cpu", type=float, required=True, help="CPU seconds a second, below 1")
    parser.add_argument("--parent", type=int, default=os.getppid())
    arguments = parser.parse_args()
    end_with_parent(arguments.parent)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        began, until = time.monotonic(), time.process_time() + arguments.cpu / SLICES
        while time.process_time() < until:
            pass
        time.sleep(max(0.0, began + 1 / SLICES - time.monotonic()))


if __name__ == "__main__":
    main()
