"""What grows with an installation, and whether a unit of work costs the same: `python -m benchmarks --only growth`.

Replicas, sessions, messages, backlogs, and sessions that call at once: one table each, its rows taking turns in rounds.
"""

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.database import Database
from benchmarks.growth_backlog import grow_backlog
from benchmarks.growth_calls import grow_concurrency, grow_messages, grow_replicas
from benchmarks.growth_replicas import GrowthLoad, Say
from benchmarks.growth_report import Axis, GrowthResult
from benchmarks.growth_sessions import grow_sessions

Grow = Callable[[Database, GrowthLoad, Say], Awaitable[list[Axis]]]

AXES: Mapping[str, Grow] = {
    "replicas": grow_replicas,
    "concurrency": grow_concurrency,
    "sessions": grow_sessions,
    "messages": grow_messages,
    "backlog": grow_backlog,
}


def growth_load(*, quick: bool, rounds: int, seconds: float | None, axes: list[str] | None) -> GrowthLoad:
    """What the command line asks for."""
    axes = axes or [*AXES]
    if quick:
        return GrowthLoad(rounds, seconds or 0.3, 0.2, axes, (10, 100), (2**10, 2**14), (10, 100), (1, 8), 5)
    return GrowthLoad(
        rounds, seconds or 2.0, 0.5, axes, (10, 1000, 100_000), (2**10, 2**16, 2**20), (100, 1000, 10_000),
        (1, 8, 64, 256), 300,
    )  # fmt: skip


async def measure_growth(database: Database, load: GrowthLoad, say: Say) -> GrowthResult:
    """Measure on a migrated database; `say` is told what comes next.

    Raises:
        LoadFailedError: a call failed or had the wrong answer.
    """
    axes = [axis for name in load.axes for axis in await AXES[name](database, load, say)]
    return GrowthResult(axes, load.rounds, load.seconds)
