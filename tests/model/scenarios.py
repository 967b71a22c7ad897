"""What is explored: worlds in which every promise is kept, and for each rule a world in which it is not without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from tests.model import call_clients, call_log, call_producer, holds, life
from tests.model.call_states import CallBounds, CallRules
from tests.model.calls import CallModel
from tests.model.explorer import STUCK, Model
from tests.model.hold_states import HoldBounds, HoldRules
from tests.model.holds import HoldModel
from tests.model.life import LifeBounds, LifeModel, LifeRules


class Fault(NamedTuple):
    """A world without some rules."""

    model: Model[Any]
    broken: str
    """The promise that breaks first."""


def calls(*without: str, cuts: int = 0, breaks: int = 0, halts: int = 0, **bounds: Any) -> CallModel:
    rules = replace(CallRules(), **dict.fromkeys(without, False))
    return CallModel(rules, CallBounds(cuts=cuts, breaks=breaks, halts=halts, **bounds))


def streams(*without: str, gets: int = 3, **bounds: Any) -> HoldModel:
    return HoldModel(replace(HoldRules(), **dict.fromkeys(without, False)), HoldBounds(gets=gets, **bounds))


def lives(*without: str, stops: int = 0, **bounds: Any) -> LifeModel:
    return LifeModel(replace(LifeRules(), **dict.fromkeys(without, False)), LifeBounds(stops=stops, **bounds))


KEPT: Mapping[str, Model[Any]] = {
    "a call that is cut, whose journal's connection breaks": calls(cuts=1, breaks=1),
    "a call whose journal's connection breaks, whose replica is killed or thought dead": calls(breaks=1, halts=1),
    "a call that is cut, whose replica is killed or thought dead": calls(cuts=1, halts=1),
    "a call with a message that the store refuses": calls(cuts=1, breaks=1, poison=1),
    "a call whose readers have nothing but bells": calls(cuts=2, bells_only=True),
    "a call whose bells are lost": calls(cuts=1, lost_bells=2),
    "three GETs by a client without a cursor": streams(),
    "the same, and a replica is killed": streams(kills=1),
    "three GETs by a client with a cursor, cut and killed": streams(cuts=1, kills=1, messages=1, cursors=True),
    "two GETs, and one that lives is taken for gone": streams(gets=2, silences=1),
    "a replica that is stopped": lives(stops=1),
    "a replica that is stopped, and its observer": lives(stops=1, observer_stops=1),
    "a store that stalls": lives(stalls=1),
    "a store that is away": lives(outages=1),
    "a store that is away, and a replica is stopped": lives(stops=1, outages=1),
}
"""All rules on. The number of states is a test's to judge."""

DEEP: Mapping[str, Model[Any]] = {
    "a call with all of these": calls(cuts=1, breaks=1, halts=1),
    "a call with two messages": calls(cuts=1, halts=1, messages=2),
    "a call that is cut twice, whose readers go on beside each other": calls(cuts=2, halts=1, zombies=True),
    "a call whose journal's connection breaks twice": calls(cuts=1, breaks=2),
    "a call whose message is refused, whose replica dies": calls(breaks=1, halts=1, poison=1),
    "three GETs, a killed replica, and one that lives is taken for gone": streams(kills=1, silences=1),
    "three GETs by a client with a cursor, with all of these": streams(cuts=1, kills=1, silences=1, cursors=True),
    "four GETs, and a replica is killed": streams(gets=4, kills=1, messages=1),
    "a replica and its observer that are stopped, and a store that stalls": lives(stops=1, stalls=1),
}
"""Longer; for `python -m tests.model --deep`."""

CALLS: Mapping[str, Fault] = {
    "row_before_ids": Fault(calls("row_before_ids", halts=1), call_clients.KNOWN),
    "named_before_read": Fault(calls("named_before_read", cuts=1, bells_only=True), STUCK),
    "row_locked": Fault(calls("row_locked", halts=1), call_log.ONE_EACH),
    "base_checked": Fault(calls("base_checked", breaks=1), call_log.ONE_EACH),
    # Two nets for one fall: what a client has of a dead producer's numbers. Each test takes the other one away.
    "asked_skipped": Fault(calls("asked_skipped", "end_repeated", halts=1, sweeps=False), STUCK),
    "end_repeated": Fault(calls("end_repeated", halts=1), STUCK),
    "fenced": Fault(calls("fenced", halts=1), call_clients.AFTER_OTHERS),
    "reborn_cuts": Fault(calls("reborn_cuts", halts=1), call_clients.AFTER_OTHERS),
    "reborn_renamed": Fault(calls("reborn_renamed", halts=1), call_clients.AFTER_OTHERS),
    "landed_asked": Fault(calls("landed_asked", breaks=1), call_producer.NO_CAUSE),
    "reader_silences": Fault(calls("reader_silences", cuts=1), call_clients.TWO_SOCKETS),
    "dead_finished": Fault(calls("dead_finished", halts=1), STUCK),
    "strays_finished": Fault(calls("strays_finished", halts=1), STUCK),
    "tails_polled": Fault(calls("tails_polled", cuts=1, lost_bells=1), STUCK),
}

HOLDS: Mapping[str, Fault] = {
    "holder_waited_for": Fault(streams("holder_waited_for"), holds.ONE_SOCKET),
    "position_released": Fault(streams("position_released"), holds.ONE_SOCKET),
    "released_if_settled": Fault(streams("released_if_settled"), holds.ONE_SOCKET),
    "saved_by_epoch": Fault(streams("saved_by_epoch", silences=1), holds.ONE_SOCKET),
    "unsettled_no_end": Fault(streams("unsettled_no_end", kills=1), holds.ONE_SOCKET),
    "all_rung": Fault(streams("all_rung", kills=1, messages=1, cursors=True), STUCK),
    "take_locked": Fault(streams("take_locked"), holds.ONE_SOCKET),
    "append_locked": Fault(streams("append_locked"), holds.ONE_EACH),
    "counted_on_row": Fault(streams("counted_on_row"), holds.ONE_EACH),
}

LIVES: Mapping[str, Fault] = {
    "counter_watched": Fault(lives("counter_watched", outages=1), life.NO_MURDER),
    "compared_and_set": Fault(lives("compared_and_set", stops=1), life.FENCED),
    "own_lapse_forgets": Fault(lives("own_lapse_forgets", outages=1), life.NO_MURDER),
    "judged_when_asked": Fault(lives("judged_when_asked", stalls=1), life.NO_MURDER),
    "failed_repeated_soon": Fault(lives("failed_repeated_soon", outages=1), life.NO_MURDER),
    "right_ends": Fault(lives("right_ends", stops=1), life.FENCED),
    "counts_from_sent": Fault(lives("counts_from_sent", stops=1), life.FENCED),
}
