"""The client, who reads for it elsewhere, and the sweep: as `sdk/resume.py` and `orphans.py` have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.model import call_log as log
from tests.model.call_states import FINALS, Call, CallBounds, CallRules, Client, Reader
from tests.model.explorer import Step

IN_ORDER = "a client sees its stream in order: none twice, none missing, up to one end"
KNOWN = "an id that a client was given names a stream in the log"
AFTER_OTHERS = "no frame leaves a replica's socket after others finished its stream"
TWO_SOCKETS = "the producer's own socket is silent once its replica has heard of a reader elsewhere"

Steps = Iterator[Step[Call]]
After = Callable[[Reader | None], Call]


def deliver(call: Call, on: str, frames: tuple[tuple[int, str], ...], messages: int) -> tuple[Client, str]:
    """What a client makes of frames on one of its connections; nothing if it has left that one."""
    client = call.client
    if client.on != on:
        return client, ""
    for number, content in frames:
        if not content:
            client = client._replace(last=number)
            continue
        if client.over or number <= client.last or (number > client.last + 1 and content != "X"):
            return client, IN_ORDER
        if content in FINALS:
            if content == "F" and client.seen < messages:
                return client, IN_ORDER
            client = client._replace(last=number, over=content, on="")
        elif content == f"p{client.seen + 1}":
            client = client._replace(last=number, seen=client.seen + 1)
        else:
            return client, IN_ORDER
    return client, ""


def hung_up(client: Client, on: str) -> Client:
    """The other side of this connection has closed it."""
    if client.on != on:
        return client
    # Without an id there is nothing to come back to: an error, as for any HTTP request.
    return client._replace(on="", over="lost" if client.last < 0 else "")


@dataclass(frozen=True)
class Clients:
    """What the client does, and what is done for it."""

    rules: CallRules
    bounds: CallBounds

    def steps(self, call: Call) -> Steps:
        yield from self._client(call)
        for place, reader in enumerate(call.readers):
            if reader.at == "B" or call.producer.run == "up":
                yield from self._reader(call, place, reader)
        sweeps = self.rules.dead_finished and self.bounds.sweeps
        if sweeps and call.row is not None and log.is_orphan(call):
            row = log.taken_over(call.row, call.row.last_seq, self.rules)
            yield Step("B's sweep finishes the dead one's stream", _all_rung(call._replace(row=row)))

    def _client(self, call: Call) -> Steps:
        client = call.client
        if client.over:
            return
        if client.on:
            gone = hung_up(client, client.on)
            if client.on in ("own", "A") and not call.producer.fresh:
                yield Step("the client hears nothing any more, and gives up", call._replace(client=gone), fault=True)
            if call.left.cuts:
                left = call.left._replace(cuts=call.left.cuts - 1)
                yield Step("the client's connection is cut", call._replace(client=gone, left=left), fault=True)
            return
        if len(call.readers) > self.bounds.zombies:
            return
        for at in ("A", "B") if call.producer.run == "up" else ("B",):
            if any(reader.at == at for reader in call.readers):
                continue
            phase = "name" if self.rules.named_before_read else "read"
            resumed = call._replace(
                readers=(*call.readers, Reader(at, client.last, phase)), client=client._replace(on=at)
            )
            yield Step(f"the client resumes at {at} after {client.last}", resumed)

    def _reader(self, call: Call, place: int, reader: Reader) -> Steps:
        def after(one: Reader | None) -> Call:
            readers = list(call.readers)
            readers[place : place + 1] = [] if one is None else [one]
            return call._replace(readers=tuple(readers))

        name = f"{reader.at}'s reader"
        if call.client.on != reader.at:
            yield Step(f"{name} notices that its client has gone", after(None))
        if reader.phase == "name":
            yield from self._name(call, reader, name, after)
        elif reader.phase == "read" or (reader.phase == "wait" and (self._polls or reader.rung)):
            yield from self._read(call, reader, name, after)
        elif reader.phase == "take":
            yield self._take_over(call, reader, name, after)
        elif reader.phase == "taking" and call.row is not None:
            base = reader.page[0][0]
            row = call.row._replace(last_seq=base, finished=True, taken=True, producer="B")
            row = row._replace(last_seq=base + 1, events=(*row.events, (base + 1, "X")))
            done = after(reader._replace(phase="read", page=()))._replace(row=row)
            yield Step(f"{name} writes the end that it has judged to be missing", done)
        elif reader.phase == "write":
            yield from self._write(call, reader, name, after)
        if reader.rung and call.left.bells:
            left = call.left._replace(bells=call.left.bells - 1)
            lost = after(reader._replace(rung=False))._replace(left=left)
            yield Step(f"the bell for {name} is lost", lost, fault=True)

    @property
    def _polls(self) -> bool:
        return self.rules.tails_polled and not self.bounds.bells_only

    def _name(self, call: Call, reader: Reader, name: str, after: After) -> Steps:
        if call.row is None:
            yield Step(f"{name} finds no such stream", after(None), KNOWN)
            return
        read_first = not self.rules.named_before_read
        phase = ("write" if reader.page or reader.over else "wait") if read_first else "read"
        named = after(reader._replace(phase=phase, named=True))
        at = call.producer.name if reader.at == "A" else "B"
        yield Step(f"{name} writes its name into the row", named._replace(row=call.row._replace(reader=at)))

    def _read(self, call: Call, reader: Reader, name: str, after: After) -> Steps:
        if call.row is None:
            yield Step(f"{name} finds no such stream", after(None), KNOWN)
            return
        reader = reader._replace(rung=False)
        if self.rules.dead_finished and log.is_orphan(call):
            yield Step(f"{name} reads that the producer is dead", after(reader._replace(phase="take")))
            return
        frames, over = log.page(call.row, reader, self.rules)
        phase = "write" if frames or over else "wait"
        if not reader.named:
            phase = "name"
        label = f"{name} reads {' '.join(content for _, content in frames) or 'nothing new'}"
        yield Step(label, after(reader._replace(phase=phase, page=frames, over=over)))

    def _take_over(self, call: Call, reader: Reader, name: str, after: After) -> Step[Call]:
        again = reader._replace(phase="read")
        if call.row is None or not log.is_orphan(call):
            return Step(f"{name} finds it finished already", after(again))
        if not self.rules.row_locked:
            base = max(call.row.last_seq, reader.seq)
            judged = reader._replace(phase="taking", page=((base, ""),))
            return Step(f"{name} finds the stream unfinished in its snapshot", after(judged))
        row = log.taken_over(call.row, reader.seq, self.rules)
        return Step(f"{name} takes the stream over", _all_rung(after(again)._replace(row=row)))

    def _write(self, call: Call, reader: Reader, name: str, after: After) -> Steps:
        a = call.producer
        if reader.at == "A" and self.rules.fenced and (a.fenced or not a.fresh):
            return
        client, broken = deliver(call, reader.at, reader.page, self.bounds.messages)
        if any(content == "G" for _, content in reader.page) and not self.bounds.poison:
            broken = broken or log.EARNED
        seq = reader.page[-1][0] if reader.page else reader.seq
        left = None if reader.over else reader._replace(phase="wait", page=(), seq=seq)
        contents = " ".join(f"{number}:{content}" for number, content in reader.page)
        yield Step(f"{name} writes {contents}", after(left)._replace(client=client), broken)


def _all_rung(call: Call) -> Call:
    return call._replace(readers=tuple(reader._replace(rung=reader.named) for reader in call.readers))
