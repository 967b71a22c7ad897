"""The judge, given records with one fault each: a verdict that finds nothing is worth nothing unless it can find it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest

from tests.chaos.judge import GONE, UNKNOWN, Verdict, judge, take_over_times
from tests.chaos.records import (
    KIND_CUSTOM,
    KIND_OWN,
    KIND_TOOLS,
    Call,
    Fault,
    Heard,
    Hearing,
    Published,
    Records,
    Tally,
)

TAG = "raw 1.1"


def event(number: int, message: str | None = None) -> tuple[str, str]:
    return f"stream.{number}", message or f'{{"method": "notifications/progress", "step": {number}}}'


def flawless() -> Records:
    """A call with three steps and one that was taken over, a state, and a stream that heard everything."""
    final = ("stream.4", '{"id": 1, "result": {}}')
    steps = [event(1), event(2), event(3)]
    result = Call(TAG, "talk", 10.0, steps=3, replica=0, progress=[1, 2, 3], outcome="result", ended=12.0)
    result.words = f"{TAG} talked 3"
    result.frames = [("stream.0", ""), *steps, final]
    result.again = [data for _, data in (*steps, final)]
    taken = Call("sdk 1.1", "talk", 10.0, steps=9, replica=2, progress=[1, 2], outcome="error", ended=16.0)
    taken.words = f"{UNKNOWN}; check"
    heard = [Heard(KIND_TOOLS, 1, 1), Heard(KIND_CUSTOM, 1, 1), Heard(KIND_CUSTOM, 1, 2), Heard(KIND_OWN, 1, 2)]
    hearing = Hearing("listener 1", 5.0, everything=True, heard=heard, told=[(1, True), (2, False)], listening=True)
    return Records(
        calls=[result, taken],
        tallies=[Tally("sdk 1", ["a"], ["b", "c"], {"a": 1, "b": 1}, 2)],
        hearings=[hearing],
        published=[Published(KIND_TOOLS, 1, True, 6.0), Published(KIND_CUSTOM, 1, True, 7.0)],
        faults=[Fault("kill", 2, 12.5, 14.0)],
    )


def judged(harm: Callable[[Records], object]) -> Verdict:
    records = flawless()
    harm(records)
    return judge(records)


def test_records_without_a_fault_are_acquitted() -> None:
    verdict = judged(lambda records: None)
    assert ([], "0 lost, 0 duplicates, 0 out of order, 0 hung calls") == (verdict.findings, str(verdict))


def test_a_take_over_is_measured_from_the_kill_to_the_answer() -> None:
    assert {"sdk": [3.5]} == take_over_times(flawless())


def test_a_take_over_while_postgres_was_broken_is_counted_apart() -> None:
    records = flawless()
    records.faults += [Fault("deafen", None, 12.0, 12.4), Fault("cut", None, 13.0, 13.0)]
    assert {"sdk": [3.5]} == take_over_times(records)
    records.faults.append(Fault("restart", None, 12.0, 12.6))
    assert {"sdk, Postgres broken": [3.5]} == take_over_times(records)


def frames(change: Callable[[list[tuple[str, str]]], object]) -> Callable[[Records], object]:
    """Change what the raw client was sent, and what is read again with it."""

    def harm(records: Records) -> None:
        call = records.calls[0]
        assert call.frames is not None
        change(call.frames)
        call.again = [data for _, data in call.frames if data]

    return harm


def words(text: str) -> Callable[[Records], object]:
    return lambda records: setattr(records.calls[1], "words", text)


LOST = {
    "a progress notification": lambda r: r.calls[0].progress.remove(2),
    "the last progress notification before a result": lambda r: r.calls[0].progress.remove(3),
    "a progress notification before an error": lambda r: r.calls[1].progress.remove(1),
    "an event of a raw client": frames(lambda sent: sent.pop(2)),
    "an event that is not in the log any more": lambda r: r.calls[0].again.pop(0),
    "an event that its client was never sent": lambda r: r.calls[0].again.insert(0, "{}"),
    "an answer that the log has otherwise, though nothing happened to its replica": lambda r: r.calls[
        0
    ].again.__setitem__(-1, json.dumps({"id": 1, "error": {"message": UNKNOWN}})),
    "a stream that is not there any more": lambda r: setattr(r.calls[0], "again", []),
    "a stream that cannot be resumed": lambda r: setattr(r.calls[0], "lost", "400"),
    "events that were not kept": words(GONE),
    "a session": words("Session terminated"),
    "an acknowledged increment": lambda r: r.tallies[0].found.pop("a"),
    "an acknowledged count": lambda r: setattr(r.tallies[0], "count", 0),
    "a state": lambda r: setattr(r.tallies[0], "found", None),
    "the last change of tools": lambda r: r.published.append(Published(KIND_TOOLS, 2, True, 8.0)),
    "a piece of news without a kind": lambda r: r.published.insert(0, Published(KIND_CUSTOM, 0, True, 6.5)),
    "a message to one session": lambda r: r.hearings[0].heard.pop(),
}
DUPLICATES = {
    "a progress notification": lambda r: r.calls[0].progress.insert(1, 1),
    "an event of a raw client": frames(lambda sent: sent.insert(2, sent[2])),
    "a call that ran twice": lambda r: r.tallies[0].found.update(a=2),
    "an increment that nobody sent": lambda r: setattr(r.tallies[0], "count", 4),
    "news within one connection": lambda r: r.hearings[0].heard.append(Heard(KIND_CUSTOM, 1, 1)),
    "a message to one session": lambda r: r.hearings[0].heard.append(Heard(KIND_OWN, 1, 3)),
}
DISORDER = {
    "progress notifications": lambda r: r.calls[0].progress.reverse(),
    "events of a raw client": frames(lambda sent: sent.insert(1, sent.pop(2))),
    "news": lambda r: (
        r.published.append(Published(KIND_CUSTOM, 2, True, 8.0)),
        r.hearings[0].heard.insert(0, Heard(KIND_CUSTOM, 2, 1)),
    ),
    "messages to one session": lambda r: (
        r.hearings[0].told.append((3, True)),
        r.hearings[0].heard.insert(0, Heard(KIND_OWN, 3, 1)),
    ),
}
HUNG = {
    "a call": lambda r: setattr(r.calls[0], "ended", None),
    "an initialize": lambda r: r.calls.append(Call("sdk 3.0", "initialize", 11.0)),
}
WRONG = {
    "an error that says nothing": words(" "),
    "another call's result": lambda r: setattr(r.calls[0], "words", "raw 1.2 talked 3"),
    "another call's progress": lambda r: r.calls[0].says("0 raw 1.2"),
    "events of another stream": frames(lambda sent: sent.insert(2, ("other.1", "{}"))),
    "a second answer": frames(lambda sent: sent.append(("stream.5", '{"id": 1, "error": {}}'))),
    "a take-over from a replica that nothing happened to": lambda r: setattr(r.calls[1], "replica", 1),
    "a take-over before the fault": lambda r: setattr(r.faults[0], "began", 17.0),
    "news that nobody published": lambda r: r.hearings[0].heard.append(Heard(KIND_TOOLS, 7, 3)),
    "a message to another session": lambda r: r.hearings[0].heard.append(Heard(KIND_OWN, 7, 3)),
    "another session's state": lambda r: r.tallies[0].found.update(z=1),
}
CASES = [
    pytest.param(kind, harm, id=f"{kind}: {name}")
    for kind, harms in (
        ("lost", LOST),
        ("duplicates", DUPLICATES),
        ("disorder", DISORDER),
        ("hung", HUNG),
        ("wrong", WRONG),
    )
    for name, harm in harms.items()
]


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([1, 2, 3, 4, 2, 3, 4, 5], 0),
        ([1, 2, 2, 3, 4, 5], 0),
        ([1, 2, 3, 4, 3, 4, 5], 3),
        ([1, 2, 3, 4, 2, 4, 5], 1),
        ([1, 2, 3, 2, 3, 2, 3, 4], 3),
    ],
)
def test_what_a_client_asked_for_twice_is_no_duplicate_and_only_that(numbers: list[int], found: int) -> None:
    """The SDK's client asks with an old id when it is cut for a second time."""

    def rewind(records: Records) -> None:
        records.calls[1].progress, records.calls[1].rewinds = numbers, [1]

    assert found == len(judged(rewind).findings)


@pytest.mark.parametrize(("kind", "harm"), CASES)
def test_one_fault_is_condemned_as_what_it_is(kind: str, harm: Callable[[Records], object]) -> None:
    verdict = judged(harm)
    assert 1 <= len(getattr(verdict, kind)), verdict.findings


def test_what_the_contract_allows_is_no_fault() -> None:
    def allowed(records: Records) -> None:
        taken = records.calls[1]
        # A stranger's final leaves out numbers; what a dead replica sent may be missing from its log.
        taken.frames = [("stream.0", ""), event(1), event(2), ("stream.7", '{"id": 1, "error": {}}')]
        taken.again = [taken.frames[1][1], taken.frames[3][1]]
        # An answer that left in one write need not be in the log of a replica that was killed.
        short = Call("raw 1.2", "count", 12.0, replica=2, outcome="result", ended=12.1, words="raw 1.2 counted 1")
        short.frames, short.again = [("other.0", ""), ("other.1", '{"id": 2, "result": {}}')], []
        records.calls.append(short)
        # Nor that of a longer call, which a stranger has then ended in the log.
        longer = Call("raw 1.3", "count", 12.0, replica=2, outcome="result", ended=12.1, words="raw 1.3 counted 2")
        longer.frames = [("third.0", ""), ("third.1", event(1)[1]), ("third.2", '{"id": 3, "result": {}}')]
        longer.again = [event(1)[1], json.dumps({"id": 3, "error": {"message": UNKNOWN}})]
        records.calls.append(longer)
        # Who left early is owed nothing more, and news of which nobody knows whether it was published need not come.
        left = copy.deepcopy(records.hearings[0])
        left.listening, left.heard = False, []
        records.hearings.append(left)
        records.published.append(Published(KIND_TOOLS, 2, False, 8.0))
        # A question of a replica that is dead by now is not asked again.
        assert records.calls[0].frames is not None
        records.calls[0].frames.insert(4, ("stream.4", '{"method": "ping", "id": "q"}'))
        records.calls[0].frames[5] = ("stream.5", records.calls[0].frames[5][1])

    assert [] == judged(allowed).findings
