"""What clients do, call after call: drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.chaos.records import Call, Hearing, Tally

# Weights of the tools.
TOOLS = {"talk": 5, "ask": 2, "sample": 1, "count": 3, "tell": 2}
# Weight, how many progress notifications, seconds between two. Most calls are short, some outlast a drain's grace.
TALKS = ((6, (1, 30), 0.04), (3, (30, 120), 0.06), (1, (150, 300), 0.04))
THINKS = (0.0, 0.8)


@dataclass(frozen=True)
class Planned:
    """One call that a client is about to make."""

    tag: str
    tool: str
    arguments: dict[str, Any]
    steps: int = 0
    number: int = 0
    """What it tells the session's standalone stream."""

    def note(self, call: Call, tally: Tally, hearing: Hearing) -> None:
        """Write down what the call's end says about the session's state and its standalone stream."""
        answered = call.outcome == "result"
        if answered and (expected := self._expected) and call.words != expected:
            call.strange.append(f"{self.tool} returned {call.words!r} instead of {expected!r}")
        if self.tool == "count":
            (tally.acknowledged if answered else tally.unknown).append(self.tag)
        if self.tool == "tell":
            hearing.told.append((self.number, answered))

    @property
    def _expected(self) -> str | None:
        match self.tool:
            case "talk":
                return f"{self.tag} talked {self.steps}"
            case "ask" | "sample":
                return f"{self.tag} heard {self.tag.upper()}"
            case "tell":
                return f"{self.tag} told {self.number}"
        return None


class Plan:
    """One session's calls. A number that it tells is never used again, whatever becomes of the call."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._told = 0

    def next(self, tag: str) -> Planned:
        tool = self._chance.choices(list(TOOLS), list(TOOLS.values()))[0]
        if tool == "talk":
            _, between, pause = self._chance.choices(TALKS, [weight for weight, *_ in TALKS])[0]
            steps = self._chance.randint(*between)
            return Planned(tag, tool, {"tag": tag, "steps": steps, "pause": pause}, steps=steps)
        if tool == "tell":
            self._told += 1
            return Planned(tag, tool, {"tag": tag, "number": self._told}, number=self._told)
        return Planned(tag, tool, {"tag": tag})

    def thinks(self) -> float:
        return self._chance.uniform(*THINKS)
