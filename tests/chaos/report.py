"""What a run has seen, as a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from tests.chaos.judge import UNKNOWN, Verdict, take_over_times
from tests.chaos.records import Call, Records
from tests.chaos.run import Run

SHOWN = 20
"""How many of the findings are printed."""

# Why calls ended without a result, in the order in which they are looked for.
REASONS = (
    (UNKNOWN, "its replica died, outcome unknown"),
    ("shutting down; try again", "503: the replica drains"),
    ("shutting down", "its replica drained, outcome unknown"),
    ("store is away; try again", "503: Postgres was away"),
    ("store is away", "an error of the tool: Postgres was away"),
    ("beats are not confirmed", "503: the replica pauses"),
    ("no replica accepts connections", "502: the replica was down"),
    ("502 answer", "502: the replica was lost before its answer began"),
    ("Server returned an error response", "502: the replica was lost before its answer began"),
    ("timed out", "the client's answer was refused, and the tool gave up waiting"),
    ("attempts were exhausted", "the SDK's client gave up resuming"),
    ("without a response", "cut before the first event id"),
    ("200 answer", "cut before the first event id"),
    ("broke", "the SDK's client broke"),
)


def lines(run: Run, verdict: Verdict) -> Iterator[str]:
    """The whole report; the verdict is its last line."""
    records = run.records
    yield table("faults", Counter(fault.kind for fault in records.faults))
    yield table("calls", Counter(outcome(call) for call in records.calls))
    yield table("tools", Counter(call.tool for call in records.calls))
    yield from counts(run)
    yield from take_overs(records)
    yield from logged(run.logs)
    yield from findings(verdict)
    yield last_line(run, verdict)


def counts(run: Run) -> Iterator[str]:
    records = run.records
    progress = sum(len(call.progress) for call in records.calls)
    frames = sum(len(call.frames or ()) for call in records.calls)
    rewinds = sum(len(call.rewinds) for call in records.calls)
    heard = sum(len(hearing.heard) for hearing in records.hearings)
    yield (
        f"{progress} progress notifications; {frames} frames of raw clients; {len(records.published)} news, "
        f"heard {heard} times with messages to one session, by {len(records.hearings)} standalone streams, of which "
        f"{sum(hearing.listening for hearing in records.hearings)} were there to the end"
    )
    yield (
        f"raw clients resumed {sum(raw.resumed for raw in run.raw)} times, {sum(raw.cuts for raw in run.raw)} of them "
        f"after cutting; SDK clients had {sum(sdk.sessions for sdk in run.sdk)} sessions, asked {rewinds} times for "
        f"what they had, {sum(sdk.rebuilt for sdk in run.sdk)} broke, {sum(sdk.deaf for sdk in run.sdk)} gave up "
        "their stream of news"
    )
    tallies = [tally for tally in records.tallies if tally.found is not None]
    acknowledged = sum(len(tally.acknowledged) for tally in tallies)
    yield (
        f"state of {len(tallies)} sessions: {acknowledged} increments acknowledged, "
        f"{sum(len(tally.unknown) for tally in tallies)} unknown, {sum(tally.count for tally in tallies)} there"
    )
    late = max((call.ended - call.began for call in records.calls if call.ended is not None), default=0.0)
    yield f"the longest call took {late:.1f} s; quiet {run.quiet_after:.1f} s after the last fault"


def take_overs(records: Records) -> Iterator[str]:
    """From kill -9 to the answer of each client that had a call on that replica."""
    yield "seconds from kill -9 to the client's answer:"
    times = take_over_times(records)
    for kind, seconds in sorted(times.items()):
        yield f"  {kind:20} {len(seconds):5} calls   p50 {median(seconds):5.2f}   max {max(seconds):5.2f}"
    if not times:
        yield "  no call was on a replica that was killed"


def logged(logs: Sequence[str]) -> Iterator[str]:
    """Exceptions in the replicas' logs: not wrong in themselves under fire, but worth a look."""
    seen = Counter(line for log in logs for line in exceptions(log))
    if seen:
        yield table("exceptions in the replicas' logs", seen)


def exceptions(log: str) -> Iterator[str]:
    in_traceback = False
    for line in log.splitlines():
        if "Traceback (most recent call last)" in line:
            in_traceback = True
        elif in_traceback and re.match(r"[A-Za-z_.]+(Error|Exception|Group|Exit)?\b.*", line):
            in_traceback = False
            yield line[:150]


def findings(verdict: Verdict) -> Iterator[str]:
    found = verdict.findings
    yield from found[:SHOWN]
    if len(found) > SHOWN:
        yield f"and {len(found) - SHOWN} more"


def last_line(run: Run, verdict: Verdict) -> str:
    said = "PASSED" if is_good(run, verdict) else "FAILED"
    stuck = "" if run.left else ", and not everyone could leave"
    return f"{said}: {verdict}{stuck} ({len(run.records.calls)} calls, seed {run.seed}, {run.seconds:g} s)"


def is_good(run: Run, verdict: Verdict) -> bool:
    return run.left and not verdict.findings


def outcome(call: Call) -> str:
    if call.ended is None:
        return "hung"
    if call.outcome == "result":
        return "result"
    return next((name for words, name in REASONS if words in call.words), call.words[:100])


def table(title: str, rows: Counter[str]) -> str:
    body: Iterable[str] = (f"  {times:6}  {name}" for name, times in rows.most_common())
    return "\n".join([f"{title}:", *body])
