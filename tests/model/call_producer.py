"""The producer's steps: its handler, its journal, its socket and its heart, as `sdk/exchange.py`, `journal.py`,
`writer.py`, `heartbeat.py` and `wiring.py` take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.model import call_log as log
from tests.model.call_clients import AFTER_OTHERS, TWO_SOCKETS, deliver, hung_up
from tests.model.call_states import Batch, Call, CallBounds, CallRules, Left, Producer, Row
from tests.model.explorer import Step

NO_CAUSE = "nobody loses a stream that is its own"

Steps = Iterator[Step[Call]]


@dataclass(frozen=True)
class Journal:
    """What happens in, and to, one replica that runs one call."""

    rules: CallRules
    bounds: CallBounds

    def steps(self, call: Call) -> Steps:
        producer = call.producer
        yield from self._statements(call)
        if producer.run == "up":
            yield from self._handler(call)
            yield from self._batches(call)
            yield from self._socket(call)
            yield from self._heart(call)
        yield from self._halts(call)

    # The handler

    def _handler(self, call: Call) -> Steps:
        a = call.producer
        if not a.handling or a.closed:
            return
        last = a.told == self.bounds.messages
        content = "F" if last else f"p{a.told + 1}"
        queue = a.queue if a.socket in ("cut", "done") else (*a.queue, (a.seq + 1, content))
        after = a._replace(
            told=a.told + 1,
            handling=not last,
            seq=a.seq + 1,
            pending=(*a.pending, content),
            finished=last,
            queue=queue,
        )
        yield Step(f"the handler sends {content} ({a.seq + 1})", call._replace(producer=after))

    # The journal

    def _batches(self, call: Call) -> Steps:
        a = call.producer
        batch = a.batch
        if batch is None:
            if not a.closed and (a.base < 0 or a.pending):
                batch = Batch(a.name, a.base < 0, max(a.base, 0), a.pending, a.finished)
                after = a._replace(batch=batch, outcome="sent", pending=())
                yield Step(f"the journal sends {_said(batch)}", call._replace(producer=after))
        elif a.outcome == "yes":
            yield self._settle(call, batch, a.reader, f"the journal hears that it is written{_for(a.reader)}")
        elif a.outcome == "refused":
            yield self._spoil(call)
        elif a.outcome in ("no", "unsure"):
            yield self._ask(call, batch, a.outcome)

    def _ask(self, call: Call, batch: Batch, outcome: str) -> Step[Call]:
        a = call.producer
        if outcome == "unsure" and a.name != batch.producer:
            return self._lose(call, "the journal gives the stream up: its replica was declared dead")
        if self.rules.landed_asked and log.landed(call.row, batch):
            return self._settle(call, batch, "", "the journal asks, and hears that it has landed")
        if outcome == "unsure":
            again = call._replace(producer=a._replace(outcome="sent"))
            return Step(f"the journal sends {_said(batch)} again", again)
        return self._lose(call, "the journal hears that the stream is not its own")

    def _settle(self, call: Call, batch: Batch, reader: str, label: str) -> Step[Call]:
        a = call.producer._replace(batch=None, outcome="", reader="")
        if a.closed:
            return Step(f"{label}, too late", call._replace(producer=a))
        a = a._replace(base=max(a.base, 0) + len(batch.events), closed=batch.finished)
        after = call._replace(producer=a)
        if not reader:
            return Step(label, after)
        after = after._replace(
            readers=tuple(one._replace(rung=one.rung or one.at == reader[0]) for one in call.readers)
        )
        a = a._replace(superseded=True)
        if self.rules.reader_silences:
            return Step(label, cut(after._replace(producer=a)))
        return Step(label, after._replace(producer=a))

    def _lose(self, call: Call, label: str) -> Step[Call]:
        a = call.producer._replace(batch=None, outcome="", reader="")
        if a.closed:
            return Step(f"{label}, which is known", call._replace(producer=a))
        a = a._replace(closed=True, pending=(), handling=False)
        after = call._replace(producer=a)
        if a.base >= 0:
            after = cut(after)
        elif a.socket == "unsent":
            after = after._replace(producer=a._replace(socket="refusing", queue=()))
        return Step(label, after, "" if call.dead else NO_CAUSE)

    def _spoil(self, call: Call) -> Step[Call]:
        """The store cannot hold it: an error takes the place of what is not written yet."""
        a = call.producer._replace(batch=None, outcome="", reader="")
        label = "the journal hears that the store refuses it"
        if a.closed:
            return Step(label, call._replace(producer=a))
        spoilt = a._replace(pending=("E",), seq=max(a.base, 0) + 1, finished=True, handling=False)
        after = call._replace(producer=spoilt)
        if a.base >= 0:
            return Step(label, cut(after))
        return Step(label, after._replace(producer=spoilt._replace(socket="refusing", queue=())))

    # What the store does with a statement, whatever becomes of who sent it

    def _statements(self, call: Call) -> Steps:
        a = call.producer
        if a.batch is not None and a.outcome == "sent":
            yield from self._execute(call, a.batch)
            if call.left.breaks and call.ghost is None:
                broken = call._replace(ghost=a.batch, producer=a._replace(outcome="unsure"), left=_fewer_breaks(call))
                yield Step("the journal's connection breaks before the statement has run", broken, fault=True)
        if a.batch is not None and a.outcome == "judged":
            row = log.written(call.row, a.batch)
            after = a._replace(outcome="yes", reader=row.reader)
            yield Step("the statement writes what it has judged before", call._replace(row=row, producer=after))
        if a.batch is not None and a.outcome in ("yes", "no") and call.left.breaks:
            after = a._replace(outcome="unsure", reader="")
            broken = call._replace(producer=after, left=_fewer_breaks(call))
            yield Step("the journal's connection breaks before the answer comes", broken, fault=True)
        if call.ghost is not None:
            yield from self._ghost(call, call.ghost)

    def _execute(self, call: Call, batch: Batch) -> Steps:
        a = call.producer
        poison = f"p{self.bounds.poison}" in batch.events
        if not log.accepts(call.row, batch, self.rules):
            yield Step("the statement writes nothing", call._replace(producer=a._replace(outcome="no")))
        elif poison:
            yield Step("the store refuses the statement", call._replace(producer=a._replace(outcome="refused")))
        elif self.rules.row_locked or batch.opens:
            row = log.written(call.row, batch)
            after = a._replace(outcome="yes", reader=row.reader)
            yield Step("the statement writes", call._replace(row=row, producer=after))
        else:
            judged = call._replace(producer=a._replace(outcome="judged"))
            yield Step("the statement finds the row its own in its snapshot", judged)

    def _ghost(self, call: Call, ghost: Batch) -> Steps:
        gone = call._replace(ghost=None)
        if log.accepts(call.row, ghost, self.rules) and f"p{self.bounds.poison}" not in ghost.events:
            late = gone._replace(row=log.written(call.row, ghost))
            yield Step("the statement of the broken connection runs after all", late, fault=True)
        else:
            # What comes of it is nothing; whether it still runs does not matter.
            yield Step("the statement of the broken connection comes to nothing", gone, fault=True)

    # The socket

    def _socket(self, call: Call) -> Steps:
        a = call.producer
        may_write = (a.fresh and not a.fenced) or not self.rules.fenced
        if a.socket == "refusing" and may_write:
            refused = call._replace(producer=a._replace(socket="cut"), client=hung_up(call.client, "own"))
            yield Step("A answers the POST with an error", refused)
        may_start = a.base >= 0 or a.finished or not self.rules.row_before_ids
        begins = a.socket == "unsent" and may_start
        if may_write and (begins or (a.socket == "open" and a.queue)):
            yield self._write(call, ((0, ""), *a.queue) if begins else a.queue)
        if call.client.on != "own" and a.socket in ("unsent", "open"):
            yield Step("A notices that the client has gone", cut(call))

    def _write(self, call: Call, frames: tuple[tuple[int, str], ...]) -> Step[Call]:
        a, row = call.producer, call.row
        done = any(content in ("F", "X", "E") for _, content in frames)
        label = f"A's socket writes {_frames(frames)}"
        after = call._replace(producer=a._replace(queue=(), socket="done" if done else "open"))
        if row is not None and row.taken:
            return Step(label, after, AFTER_OTHERS)
        if a.superseded:
            return Step(label, after, TWO_SOCKETS)
        client, broken = deliver(call, "own", frames, self.bounds.messages)
        return Step(label, after._replace(client=client), broken)

    # The heart

    def _heart(self, call: Call) -> Steps:
        a = call.producer
        if a.fenced:
            yield Step("A cuts everything of its old incarnation", self._reborn(call))
        elif not a.fresh and not (call.dead and a.name == "A"):
            yield Step("A's beat is confirmed", call._replace(producer=a._replace(fresh=True)))
        elif not a.fresh and self.rules.reborn_renamed:
            yield Step("A's beat says that it is dead", call._replace(producer=a._replace(fenced=True, name="A2")))
        elif not a.fresh:
            revived = call._replace(producer=a._replace(fresh=True))
            yield Step("A's beat says that it is dead; it beats on all the same", revived)
        strays = self.rules.strays_finished and call.row is not None and not call.row.finished
        if strays and a.closed and not a.fenced and call.row is not None and call.row.producer == a.name:
            yield Step("A finishes a stray of its own", call._replace(row=_with_end(call.row)))

    def _reborn(self, call: Call) -> Call:
        a = call.producer._replace(fenced=False, fresh=True)
        if not self.rules.reborn_cuts:
            return call._replace(producer=a)
        after = call._replace(producer=a._replace(closed=True, pending=(), handling=False))
        return _without_readers_here(cut(after))

    def _halts(self, call: Call) -> Steps:
        a = call.producer
        if call.left.halts and a.run == "up" and a.name == "A":
            left = call.left._replace(halts=call.left.halts - 1)
            lapsed = call._replace(producer=a._replace(fresh=False), left=left)
            if a.fresh:
                yield Step("A stands still, or cannot beat: its last beat grows too old", lapsed, fault=True)
            yield Step("A is killed", killed(lapsed), fault=True)
        if not a.fresh and not call.dead and a.name == "A":
            # Of one that runs nobody knows whether its next beat comes first.
            yield Step("B records A's death", call._replace(dead=True), fault=a.run == "up")


def cut(call: Call) -> Call:
    """Close the POST's socket without an answer; the client comes back if it has an id."""
    a = call.producer
    if a.socket in ("done", "cut"):
        return call
    after = a._replace(socket="cut", queue=())
    return call._replace(producer=after, client=hung_up(call.client, "own"))


def killed(call: Call) -> Call:
    """Its sockets are reset; a statement of its that was sent may run, or not."""
    a = call.producer
    ghost = a.batch if a.outcome in ("sent", "judged") else call.ghost
    nothing = Producer(run="killed", fresh=False, handling=False, closed=True, socket="cut", told=a.told)
    after = call._replace(producer=nothing, ghost=ghost, client=hung_up(call.client, "own"))
    return _without_readers_here(after)


def _without_readers_here(call: Call) -> Call:
    readers = tuple(reader for reader in call.readers if reader.at != "A")
    return call._replace(readers=readers, client=hung_up(call.client, "A"))


def _with_end(row: Row) -> Row:
    seq = row.last_seq + 1
    return row._replace(last_seq=seq, finished=True, events=(*row.events, (seq, "X")))


def _fewer_breaks(call: Call) -> Left:
    return call.left._replace(breaks=call.left.breaks - 1)


def _said(batch: Batch) -> str:
    what = " ".join(batch.events) or "no event"
    return f"[{'opens, ' if batch.opens else f'after {batch.base}: '}{what}, by {batch.producer}]"


def _for(reader: str) -> str:
    return f", and that {reader} reads" if reader else ""


def _frames(frames: tuple[tuple[int, str], ...]) -> str:
    return " ".join(f"{number}:{content or 'id'}" for number, content in frames)
