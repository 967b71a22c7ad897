"""The verdict, from the clients' own records: what was lost, came twice, came in the wrong order, or never ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.records import KIND_CUSTOM, KIND_OWN, KIND_TOOLS, Call, Fault, Hearing, Published, Records, Tally

UNKNOWN = "the replica that ran this call died"
"""What a call is answered with whose replica was taken for dead."""
GONE = "this stream cannot be resumed"
"""What a client is told whose events were not kept."""
NO_SESSION = ("Session terminated", "Session not found")

# A replica is declared dead some seconds after it stood still, and its streams are finished by whoever reads them.
EXPLAINS_FOR = 30.0


@dataclass
class Verdict:
    """Sentences, each about one fault that was found."""

    lost: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What is none of these: somebody else's message, an error without a reason or without a cause, two answers."""

    @property
    def findings(self) -> list[str]:
        return [*self.lost, *self.duplicates, *self.disorder, *self.hung, *self.wrong]

    def __str__(self) -> str:
        counts = f"{len(self.lost)} lost, {len(self.duplicates)} duplicates, {len(self.disorder)} out of order"
        return f"{counts}, {len(self.hung)} hung calls" + (f", {len(self.wrong)} wrong" if self.wrong else "")


def judge(records: Records) -> Verdict:
    verdict = Verdict()
    for call in records.calls:
        judge_end(call, records.faults, verdict)
        judge_progress(call, verdict)
        if call.frames is not None:
            judge_frames(call, records.faults, verdict)
    for tally in records.tallies:
        judge_tally(tally, verdict)
    for hearing in records.hearings:
        judge_hearing(hearing, records.published, verdict)
    return verdict


# ---- A call -------------------------------------------------------------------------------------------------------


def judge_end(call: Call, faults: Sequence[Fault], verdict: Verdict) -> None:
    if call.ended is None:
        verdict.hung.append(f"{call.tag}: {call.tool} never ended")
        return
    verdict.wrong += [f"{call.tag}: {what}" for what in call.strange]
    if call.lost:
        verdict.lost.append(f"{call.tag}: {call.lost}")
    if call.outcome == "result":
        if not call.words.startswith(f"{call.tag} "):
            verdict.wrong.append(f"{call.tag} got somebody else's result: {call.words!r}")
        return
    if not call.words.strip():
        verdict.wrong.append(f"{call.tag} failed and was not told why")
    if any(sentence in call.words for sentence in NO_SESSION):
        verdict.lost.append(f"{call.tag}: its session was not there: {call.words!r}")
    if GONE in call.words:
        verdict.lost.append(f"{call.tag}: {call.words!r}")
    if UNKNOWN in call.words and call.replica is not None and not is_explained(call, faults):
        verdict.wrong.append(f"{call.tag} was taken over, but nothing had happened to replica {call.replica}")


def is_explained(call: Call, faults: Sequence[Fault], *, later: float = 0.0) -> bool:
    """Whether the replica that ran it was killed, frozen or told to end meanwhile, or up to so many seconds `later`."""
    assert call.ended is not None
    return any(
        fault.target == call.replica
        and fault.began <= call.ended + later
        and call.began <= (call.ended if fault.ended is None else fault.ended) + EXPLAINS_FOR
        for fault in faults
    )


def judge_progress(call: Call, verdict: Verdict) -> None:
    judge_numbers(f"the progress of {call.tag}", unwound(call.progress, call.rewinds), verdict)
    if call.outcome == "result" and call.steps > max(call.progress, default=0):
        missing = f"ends at {max(call.progress, default=0)}, its result came after {call.steps}"
        verdict.lost.append(f"the progress of {call.tag} {missing}")


def unwound(numbers: Sequence[int], rewinds: Sequence[int]) -> list[int]:
    """The numbers without what the client itself asked for twice.

    The SDK's client, cut for a second time, asks for what comes after the id that it had at the first cut. Each event
    of a talking call is one progress notification, so the event's number is the progress.
    """
    kept: list[int] = []
    left = list(rewinds)
    for number in numbers:
        if left and kept and number == left[0] + 1 <= kept[-1]:
            kept = [earlier for earlier in kept if earlier < number]
            left.pop(0)
        kept.append(number)
    return kept


def judge_numbers(what: str, numbers: Sequence[int], verdict: Verdict) -> None:
    """They are to be 1, 2, 3, … as they came."""
    verdict.duplicates += [f"{what}: {number} came {times} times" for number, times in again(numbers)]
    judge_order(what, numbers, verdict)
    if holes := sorted(set(range(1, max(numbers, default=0))) - set(numbers)):
        verdict.lost.append(f"{what}: {holes} never came")


def judge_order(what: str, numbers: Sequence[int], verdict: Verdict) -> None:
    verdict.disorder += [f"{what}: {late} came after {early}" for early, late in pairwise(numbers) if late < early]


def again(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    return ((number, times) for number, times in Counter(numbers).items() if times > 1)


def judge_frames(call: Call, faults: Sequence[Fault], verdict: Verdict) -> None:
    """Every frame that came to a raw client, over all its connections."""
    assert call.frames is not None
    events = [(parse_id(id), data) for id, data in call.frames]
    if len(streams := {stream for (stream, _), _ in events}) > 1:
        verdict.wrong.append(f"{call.tag} was sent events of {len(streams)} streams")
        return
    numbers = [number for (_, number), data in events if data]
    what = f"the events of {call.tag}"
    verdict.duplicates += [f"{what}: {number} came {times} times" for number, times in again(numbers)]
    judge_order(what, numbers, verdict)
    # A stranger that ends a dead replica's stream leaves out what that one may have sent and never stored.
    counted = numbers[:-1] if UNKNOWN in call.words else numbers
    if holes := sorted(set(range(1, max(counted, default=0))) - set(counted)):
        verdict.lost.append(f"{what}: {holes} never came")
    finals = [data for _, data in events if data and "method" not in json.loads(data)]
    if len(finals) > 1:
        verdict.wrong.append(f"{call.tag} was answered {len(finals)} times")
    if call.again is not None:
        judge_again(call, [data for _, data in events if data], call.again, faults, verdict)


def judge_again(
    call: Call, sent: Sequence[str], kept: Sequence[str], faults: Sequence[Fault], verdict: Verdict
) -> None:
    """What the log has in the end beside what the client was sent."""
    if not kept and len(sent) == 1 and is_explained(call, faults, later=EXPLAINS_FOR):
        # An answer that leaves in one write with the first event id does not wait for the log.
        return
    # What a replica asked that is dead by now is not asked again.
    sent = [data for data in sent if not is_question(data) or data in kept]
    if UNKNOWN in call.words:
        # A frame leaves while its event is on its way into the log; what died with its replica is not there.
        sent = [data for data in sent if data in kept]
    elif kept and UNKNOWN in kept[-1] and is_explained(call, faults, later=EXPLAINS_FOR):
        # So may the answer: the client has it, and its replica died before the log had it, which a stranger then ended.
        kept = kept[:-1]
        sent = sent[: len(kept)]
    if list(kept) != list(sent):
        ends = f"… {[data[:200] for data in sent[-2:]]}; read again … {[data[:200] for data in kept[-2:]]}"
        verdict.lost.append(f"{call.tag}: its stream, read again, is not what its client was sent: {ends}")


def is_question(data: str) -> bool:
    message = json.loads(data)
    return "method" in message and "id" in message


def parse_id(event_id: str) -> tuple[str, int]:
    stream, _, number = event_id.partition(".")
    return stream, int(number)


# ---- A session's state --------------------------------------------------------------------------------------------


def judge_tally(tally: Tally, verdict: Verdict) -> None:
    if tally.found is None:
        verdict.lost.append(f"the state of {tally.session} could not be read in the end")
        return
    found = tally.found
    verdict.lost += [
        f"{tag} was acknowledged and is not in the state" for tag in tally.acknowledged if tag not in found
    ]
    verdict.duplicates += [f"{tag} is {times} times in the state" for tag, times in found.items() if times > 1]
    if strangers := set(found) - set(tally.acknowledged) - set(tally.unknown):
        verdict.wrong.append(f"{tally.session} has the state of other sessions: {sorted(strangers)}")
    least, most = len(tally.acknowledged), len(tally.acknowledged) + len(tally.unknown)
    if tally.count < least:
        verdict.lost.append(f"{tally.session} counted {tally.count}, at least {least} were acknowledged")
    if tally.count > most:
        verdict.duplicates.append(f"{tally.session} counted {tally.count}, at most {most} were sent")


# ---- A standalone stream ------------------------------------------------------------------------------------------


def judge_hearing(hearing: Hearing, published: Sequence[Published], verdict: Verdict) -> None:
    judge_own(hearing, verdict)
    for kind in (KIND_TOOLS, KIND_CUSTOM):
        numbers = first_hearings(hearing, kind)
        sure = {news.number for news in published if news.kind == kind and news.acknowledged}
        judge_once_a_connection(hearing, kind, verdict)
        # One of which nobody knows whether it was published may have been so at any time since.
        in_order = [number for number in numbers if number in sure]
        judge_order(f"{hearing.listener}: {kind}", in_order, verdict)
        if strangers := set(numbers) - {news.number for news in published if news.kind == kind}:
            verdict.wrong.append(f"{hearing.listener}: {kind} {sorted(strangers)} were never published")
        if hearing.listening:
            judge_heard(hearing, kind, in_order, published, verdict)


def judge_heard(
    hearing: Hearing, kind: str, numbers: Sequence[int], published: Sequence[Published], verdict: Verdict
) -> None:
    owed = [news.number for news in published if news.kind == kind and news.acknowledged and news.at > hearing.since]
    if not owed:
        return
    if kind == KIND_TOOLS:
        if max(numbers, default=0) < owed[-1]:
            newest = max(numbers, default=0)
            verdict.lost.append(f"{hearing.listener}: the last change of tools heard is {newest}, not {owed[-1]}")
    elif hearing.everything and (missing := sorted(set(owed) - set(numbers))):
        verdict.lost.append(f"{hearing.listener}: {kind} {missing} were never heard")


def judge_own(hearing: Hearing, verdict: Verdict) -> None:
    """Messages to one session: its client comes back with a cursor, so each comes once."""
    numbers = [heard.number for heard in hearing.heard if heard.kind == KIND_OWN]
    what = f"the messages to {hearing.listener}"
    verdict.duplicates += [f"{what}: {number} came {times} times" for number, times in again(numbers)]
    sure = {number for number, acknowledged in hearing.told if acknowledged}
    in_order = [number for number in numbers if number in sure]
    judge_order(what, in_order, verdict)
    if strangers := set(numbers) - {number for number, _ in hearing.told}:
        verdict.wrong.append(f"{what}: {sorted(strangers)} were never sent to it")
    if hearing.listening and (missing := sorted(sure - set(numbers))):
        verdict.lost.append(f"{what}: {missing} never came")


def judge_once_a_connection(hearing: Hearing, kind: str, verdict: Verdict) -> None:
    """News that was on its way at a cut may come again, in the next connection."""
    by_connection: dict[int, list[int]] = {}
    for heard in hearing.heard:
        if heard.kind == kind:
            by_connection.setdefault(heard.connection, []).append(heard.number)
    for connection, numbers in by_connection.items():
        verdict.duplicates += [
            f"{hearing.listener}: {kind} {number} came {times} times in connection {connection}"
            for number, times in again(numbers)
        ]


def first_hearings(hearing: Hearing, kind: str) -> list[int]:
    return list(dict.fromkeys(heard.number for heard in hearing.heard if heard.kind == kind))


# ---- Take-overs ---------------------------------------------------------------------------------------------------


def take_over_times(records: Records) -> Mapping[str, list[float]]:
    """Seconds from each kill -9 until a client of a call on that replica had its answer, by kind of client."""
    times: dict[str, list[float]] = {}
    for call in records.calls:
        if call.ended is None or UNKNOWN not in call.words:
            continue
        kills = [
            fault.began
            for fault in records.faults
            if fault.kind == "kill" and fault.target == call.replica and call.began <= fault.began <= call.ended
        ]
        if kills:
            kind, broken = call.tag.partition(" ")[0], was_postgres_broken(kills[0], call.ended, records.faults)
            times.setdefault(f"{kind}, Postgres broken" if broken else kind, []).append(call.ended - kills[0])
    return times


def was_postgres_broken(since: float, until: float, faults: Sequence[Fault]) -> bool:
    """Whether something was done to Postgres meanwhile: then nobody can record a death until it is back."""
    return any(
        fault.target is None and fault.kind != "cut" and fault.began < until and (fault.ended or until) > since
        for fault in faults
    )
