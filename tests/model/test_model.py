"""The model of the design: with all its rules no interleaving breaks a promise, and without any one of them some does.

A trace that a failure prints is the shortest way there; docs/model.md says how to read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

import pytest

from tests.model import scenarios
from tests.model.call_states import CallRules
from tests.model.explorer import STUCK, Outcome, Step, TooManyStatesError, explore
from tests.model.hold_states import HoldRules
from tests.model.life import LifeRules

# Fewer than there are: an exploration that became empty must not pass for one that found nothing.
LEAST = 180_000

RULES = {CallRules: scenarios.CALLS, HoldRules: scenarios.HOLDS, LifeRules: scenarios.LIVES}
FAULTS = {rule: fault for faults in RULES.values() for rule, fault in faults.items()}


def test_with_all_rules_every_interleaving_keeps_every_promise() -> None:
    found = {name: explore(model) for name, model in scenarios.KEPT.items()}
    assert {} == {name: str(outcome) for name, outcome in found.items() if outcome.broken}
    assert LEAST < sum(outcome.states for outcome in found.values())


@pytest.mark.parametrize("rule", FAULTS)
def test_without_this_rule_a_promise_breaks(rule: str) -> None:
    fault = FAULTS[rule]
    outcome = explore(fault.model)
    assert fault.broken == outcome.broken
    assert outcome.trace


def test_every_rule_of_the_model_has_a_world_that_needs_it() -> None:
    assert [[field.name for field in fields(rules)] for rules in RULES] == [list(faults) for faults in RULES.values()]


def test_the_second_net_alone_holds_what_a_client_has_of_a_dead_producers_numbers() -> None:
    """`end_repeated` off, but a taker leaves out what the client has: enough, as long as only readers take over."""
    assert "" == explore(scenarios.calls("end_repeated", halts=1, sweeps=False)).broken


# The explorer itself


class Light(NamedTuple):
    """Of a lamp with a switch that breaks."""

    on: bool = False
    broken: bool = False


class Lamp:
    """Somebody wants light."""

    def __init__(self, *, mended: bool, dark: str = "") -> None:
        self.mended = mended
        self.dark = dark

    def start(self) -> Light:
        return Light()

    def steps(self, state: Light) -> Iterator[Step[Light]]:
        yield Step("it breaks", state._replace(broken=True), fault=True)
        if not state.broken:
            yield Step("somebody turns it on", state._replace(on=True))
        elif self.mended:
            yield Step("it is mended", state._replace(broken=False))

    def broken(self, state: Light) -> str:
        return self.dark if state.broken and state.on else ""

    def is_over(self, state: Light) -> bool:
        return state.on


def test_the_explorer_visits_everything_once() -> None:
    assert Outcome(4, 8) == explore(Lamp(mended=True))


def test_the_explorer_finds_the_shortest_way_to_a_broken_promise() -> None:
    outcome = explore(Lamp(mended=True, dark="light"))
    assert ("light", ("somebody turns it on", "it breaks")) == (outcome.broken, outcome.trace)


def test_the_explorer_finds_a_state_from_which_only_a_fault_would_lead_on() -> None:
    outcome = explore(Lamp(mended=False))
    assert (STUCK, ("it breaks",)) == (outcome.broken, outcome.trace)


def test_the_explorer_proves_nothing_of_a_model_that_is_too_large() -> None:
    with pytest.raises(TooManyStatesError, match="more than 2 states"):
        explore(Lamp(mended=True), most=2)
