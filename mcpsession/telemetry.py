"""What happened, counted: one hook object passed in, silent unless somebody reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def _silent(name: str, amount: int) -> None:
    del name, amount


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Counts by name (`mcpsession_<thing>_total`), and hands each count to a sink of the application's."""

    sink: Callable[[str, int], None] = _silent
    counts: Counter[str] = field(default_factory=Counter)

    def count(self, name: str, amount: int = 1) -> None:
        self.counts[name] += amount
        self.sink(name, amount)

    def snapshot(self) -> Mapping[str, int]:
        return dict(self.counts)
