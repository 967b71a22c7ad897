"""The model of one call: put together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from tests.model import call_log
from tests.model.call_clients import Clients
from tests.model.call_producer import Journal
from tests.model.call_states import Call, CallBounds, CallRules, Client, Left
from tests.model.explorer import Step


class CallModel:
    """One POST with its stream: its producer, a second replica, and a client that keeps resuming."""

    def __init__(self, rules: CallRules | None = None, bounds: CallBounds | None = None) -> None:
        self.rules = rules or CallRules()
        self.bounds = bounds or CallBounds()
        self._journal = Journal(self.rules, self.bounds)
        self._clients = Clients(self.rules, self.bounds)

    def start(self) -> Call:
        bounds = self.bounds
        return Call(Left(bounds.cuts, bounds.breaks, bounds.halts, bounds.lost_bells))

    def steps(self, state: Call) -> Iterator[Step[Call]]:
        for step in chain(self._journal.steps(state), self._clients.steps(state)):
            yield step._replace(after=_essence(step.after))

    def broken(self, state: Call) -> str:
        return call_log.broken(state, poison=bool(self.bounds.poison))

    def is_over(self, state: Call) -> bool:
        # In the log as well: an open stream keeps its row, and its request's id, for ever.
        ended = state.row is None or state.row.finished or not self.bounds.sweeps
        return bool(state.client.over) and ended


def _essence(call: Call) -> Call:
    """Leave out what can make no difference any more, so that states that behave alike are one."""
    a, client, row = call.producer, call.client, call.row
    if client.over and client != _GONE:
        call = call._replace(client=_GONE)
    if a.closed:
        a = a._replace(told=0, handling=False, pending=(), base=min(a.base, 0), seq=0)
    if a.socket in ("done", "cut"):
        a = a._replace(queue=(), superseded=False)
    if a != call.producer:
        call = call._replace(producer=a)
    if row is not None and row.finished and row.reader:
        call = call._replace(row=row._replace(reader=""))
    return call


_GONE = Client(on="", over="over")
