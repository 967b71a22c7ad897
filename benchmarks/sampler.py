"""Where a server's CPU time goes, from the inside: SIGUSR1 starts it, SIGUSR2 writes it down as JSON."""

import cProfile
import gc
import json
import pstats
import signal
import time
from collections import Counter
from pathlib import Path
from types import FrameType

# CPU seconds between two samples; most kernels round it up to a tick of 4 ms.
INTERVAL = 0.001

# File, line of the definition, name.
Function = tuple[str, int, str]


class Sampler:
    """Looks at the main thread's stack at each tick of CPU time: little overhead, no counts."""

    def __init__(self) -> None:
        self._own: Counter[Function] = Counter()
        self._total: Counter[Function] = Counter()
        self._samples = 0

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def rows(self) -> list[dict[str, object]]:
        """Own and total time as shares of all samples."""
        return [
            {"function": function, "own": self._own[function] / self._samples, "total": total / self._samples}
            for function, total in self._total.items()
        ]

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self._samples += 1
        self._own[_function(frame)] += 1
        stack: set[Function] = set()
        walked: FrameType | None = frame
        while walked is not None:
            stack.add(_function(walked))
            walked = walked.f_back
        self._total.update(stack)


class Exact:
    """Counts every call with cProfile: exact counts, times that favour code with few calls."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def start(self) -> None:
        self._profile.enable()

    def stop(self) -> None:
        self._profile.disable()

    def rows(self) -> list[dict[str, object]]:
        """Own and total time as shares of all time, and the number of calls."""
        stats: dict[Function, tuple[int, int, float, float, object]] = vars(pstats.Stats(self._profile))["stats"]
        # Waiting for the network is not work.
        stats = {function: entry for function, entry in stats.items() if ".poll" not in function[2]}
        whole = sum(own for _, _, own, _, _ in stats.values())
        return [
            {"function": function, "own": own / whole, "total": total / whole, "calls": calls}
            for function, (_, calls, own, total, _) in stats.items()
        ]


class Collector:
    """Adds up the garbage collector's CPU time, which a profile books on whoever happened to allocate."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __call__(self, phase: str, _information: dict[str, int]) -> None:
        if phase == "start":
            self._started = time.process_time()
        else:
            self.seconds += time.process_time() - self._started


def listen_for_signals(path: str, *, exact: bool) -> None:
    """Profile this process from SIGUSR1 to SIGUSR2, and then write the rows to `path`; call this in the main thread."""
    profiler = Exact() if exact else Sampler()
    collector = Collector()
    started = 0.0

    def start(_signal: int, _frame: FrameType | None) -> None:
        nonlocal started
        started = time.process_time()
        gc.callbacks.append(collector)
        profiler.start()

    def write(_signal: int, _frame: FrameType | None) -> None:
        profiler.stop()
        cpu = time.process_time() - started
        gc.callbacks.remove(collector)
        # Renamed when complete: whoever waits for the file reads all of it.
        unfinished = Path(path + ".new")
        unfinished.write_text(json.dumps({"cpu": cpu, "gc": collector.seconds, "rows": profiler.rows()}))
        unfinished.rename(path)

    signal.signal(signal.SIGUSR1, start)
    signal.signal(signal.SIGUSR2, write)


def _function(frame: FrameType) -> Function:
    code = frame.f_code
    return code.co_filename, code.co_firstlineno, code.co_qualname
